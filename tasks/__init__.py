"""Prefect tasks: the steps a person would want to see or retry, thin over `mesh`."""
