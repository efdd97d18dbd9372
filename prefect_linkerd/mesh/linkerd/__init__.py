"""What each Linkerd version is, and what follows from it."""
