"""Installing a mesh: its plan, and what there is after it."""
