"""Installing a mesh: its plan, and the report at the end."""
