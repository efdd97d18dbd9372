"""Certificates and keys, made, read and checked; knows no cluster."""
