"""A whole mesh, read once into plain data."""
