"""One Kubernetes API server: reaching it, and what is told of its objects."""
