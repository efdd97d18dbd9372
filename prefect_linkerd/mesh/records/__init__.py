"""What a run records in the cluster for the run that resumes it."""
