"""Installing a mesh: its plan, its steps, and the report at the end."""
