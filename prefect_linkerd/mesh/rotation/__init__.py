"""Rotating the trust anchor and the issuer with no failed request; resumable."""
