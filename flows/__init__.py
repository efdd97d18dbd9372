"""Prefect flows: one procedure a module, to be read like its runbook."""
