"""Ports on 127.0.0.1: free ones, and how they are spoken to."""

from __future__ import annotations

import socket
import ssl

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
