"""Connecting to a Kubernetes API server, and interpreting its objects."""
