"""Facts about each Linkerd version, and what follows from them."""
