"""Upgrades a mesh from one version of Linkerd to the next, and goes back."""
