"""Installing a mesh: its plan, and the proof that it works."""
