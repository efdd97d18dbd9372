"""What a mesh needs besides Linkerd's own releases."""
