"""Certificates and keys: creating, reading and checking them, without a cluster."""
