"""The probe: meshed clients and servers of our own that ask each other while a mesh changes."""
