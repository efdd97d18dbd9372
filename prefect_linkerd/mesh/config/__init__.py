"""A user's configuration of a mesh."""
