"""Prefect flows that manage the full lifecycle of a Linkerd service mesh."""
