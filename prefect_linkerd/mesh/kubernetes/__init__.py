"""One Kubernetes API server: reaching it, and understanding its objects."""
