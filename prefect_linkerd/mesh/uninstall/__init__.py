"""Uninstalling a mesh: what goes, what stays and why, and the order in which it goes."""
