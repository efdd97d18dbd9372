"""A whole mesh read once, as plain data."""
