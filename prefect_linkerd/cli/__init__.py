"""The command line: each flow as a command, with or without a Prefect server."""
