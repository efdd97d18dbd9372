"""The rotation of a mesh's root of trust, and of its issuer: with no failed request, resumable."""
