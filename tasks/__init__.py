"""Prefect tasks: the steps that people want to see or retry, thin wrappers around `mesh`."""
