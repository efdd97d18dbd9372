"""Prefect tasks: the steps worth showing or retrying, as thin wrappers around `mesh`."""
