"""Ports on 127.0.0.1: free ones, and how they are spoken to."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect_linkerd.mesh.atomic_file import write_whole
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For httpx, which otherwise loads the system's authorities for every request without TLS, too."""


def free_ports(count: int) -> list[int]:
    """A number of different ports, free at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


def authority_file(folder: Path) -> Path:
    """A file with one authority that signs nothing, for clients that load one without TLS, too.

    Each client of Prefect's loads the authorities that PREFECT_API_SSL_CERT_FILE names, or else
    the system's, which takes 60 ms of processor time.
    """
    path = folder / "authority.pem"
    if not path.exists():
        pair = create_trust_anchor("loopback", timedelta(days=1), datetime.now(UTC))
        write_whole(path, pair.certificate)
    return path
