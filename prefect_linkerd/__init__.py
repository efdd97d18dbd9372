"""The command line, for people and scripts at a terminal; it needs no Prefect server."""
