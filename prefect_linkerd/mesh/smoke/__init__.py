"""Smoke tests: whether a mesh does with real requests what it is installed for."""
