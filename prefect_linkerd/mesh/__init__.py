"""The life of a Linkerd mesh: PKI, releases, cluster access, checks. Knows no Prefect."""
