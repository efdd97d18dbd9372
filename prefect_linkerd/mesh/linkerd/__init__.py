"""Facts about each Linkerd version, and what is derived from them."""
