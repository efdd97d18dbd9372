"""What a run leaves in the cluster for the one that resumes it."""
