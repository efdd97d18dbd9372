"""Reports of a mesh, in formats for people and programs."""
