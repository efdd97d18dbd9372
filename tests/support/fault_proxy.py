"""A proxy in front of the API server that fails some requests.

It speaks plain HTTP on 127.0.0.1 and forwards with the administrator's token. A faulty request is
refused with 429 or 500, or its connection is reset: before it reaches the API server, or after, so
that the API server has done it but the client does not know.
"""

from __future__ import annotations

import base64
import random
import socket
import struct
import tempfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import urllib3
import yaml

NONE: Mapping[str, str] = MappingProxyType({})
FAULTS = ("429", "500", "reset", "lost")


class _Server(ThreadingHTTPServer):
    # Many clients connect at once.
    request_queue_size = 64


class FaultProxy:
    """While open, `kubeconfig` leads to an API server that fails a share of requests."""

    def __init__(self, kubeconfig: Path, share: float, seed: int) -> None:
        self.share = share
        self.faults = 0
        self.requests = 0
        self._random = random.Random(seed)  # noqa: S311 nothing secret
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory()
        content = yaml.safe_load(kubeconfig.read_text())
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        self._server = cluster["server"]
        self._pool = urllib3.PoolManager(
            headers={"Authorization": f"Bearer {user['token']}"},
            ca_certs=self._file("ca", cluster["certificate-authority-data"]),
            maxsize=32,
            retries=False,
        )
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _serve(self) -> None:
                proxy.serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        self._http = _Server(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def _file(self, name: str, content: str) -> str:
        path = Path(self._folder.name, name)
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(content))
        return str(path)

    @property
    def kubeconfig(self) -> dict[str, Any]:
        address = f"http://127.0.0.1:{self._http.server_address[1]}"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "faulty",
            "clusters": [{"name": "faulty", "cluster": {"server": address}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "faulty", "context": {"cluster": "faulty", "user": "nobody"}}],
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._folder.cleanup()

    def _fault(self) -> str:
        with self._lock:
            self.requests += 1
            if self._random.random() >= self.share:
                return ""
            self.faults += 1
            return self._random.choice(FAULTS)

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        fault = self._fault()
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length) if length else None
        if fault in ("429", "500"):
            answer(request, int(fault), b'{"message": "a fault of the test"}')
            return
        if fault != "reset":
            kept = ("Accept", "Content-Type")
            headers = {k: v for k, v in request.headers.items() if k in kept}
            headers |= self._pool.headers
            response = self._pool.request(
                request.command, self._server + request.path, body=body, headers=headers
            )
        if fault in ("reset", "lost"):
            # Closing with a linger time of 0 sends RST.
            linger = struct.pack("ii", 1, 0)
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            request.close_connection = True
            request.connection.close()
            return
        status, data = self.amended(request.path, response.status, response.data)
        answer(request, status, data, response.headers)

    def amended(self, path: str, status: int, data: bytes) -> tuple[int, bytes]:  # noqa: ARG002
        """What replaces the API server's answer; unchanged here."""
        return status, data


def answer(
    request: BaseHTTPRequestHandler, status: int, body: bytes, given: Mapping[str, str] = NONE
) -> None:
    request.send_response_only(status)
    request.send_header("Date", given.get("Date", request.date_time_string()))
    # Helm may ask for protobuf, so the content type is forwarded.
    request.send_header("Content-Type", given.get("Content-Type", "application/json"))
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
