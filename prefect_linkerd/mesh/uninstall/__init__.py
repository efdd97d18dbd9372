"""Uninstalling a mesh: what is removed, in which order, and what stays and why."""
