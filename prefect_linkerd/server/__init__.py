"""A temporary Prefect server and worker on this machine, for fleets and the demo."""
