"""Smoke tests: real requests for load balancing, splits, faults and ingress."""
