"""Helm releases, charts and values, and who owns what Helm installed."""
