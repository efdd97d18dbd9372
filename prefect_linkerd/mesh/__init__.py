"""The library: PKI, releases, cluster access, checks. It does not know Prefect."""
