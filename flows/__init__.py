"""Prefect flows: one procedure per module, written to read like a runbook."""
