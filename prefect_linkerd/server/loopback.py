"""Free ports on 127.0.0.1, and settings for clients that talk to them without TLS."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect_linkerd.mesh.atomic_file import write_whole
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For httpx, which otherwise loads the system's CAs for every request, even one without TLS."""


def free_ports(count: int) -> list[int]:
    """Returns distinct ports that are free at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


def authority_file(folder: Path) -> Path:
    """Returns a file with one unused CA, for clients that load CAs even without TLS.

    Each Prefect client loads the CAs that PREFECT_API_SSL_CERT_FILE names, or else the system's,
    which takes 60 ms of CPU time.
    """
    path = folder / "authority.pem"
    if not path.exists():
        pair = create_trust_anchor("loopback", timedelta(days=1), datetime.now(UTC))
        write_whole(path, pair.certificate)
    return path
