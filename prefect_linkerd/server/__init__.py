"""A Prefect server and worker of our own on this machine: for fleets, and for the demo."""
