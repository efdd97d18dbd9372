"""A stand-in for an API server on 127.0.0.1 that gives a test's answers by path."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prefect_linkerd.mesh.kubernetes.client import Cluster

Answer = tuple[int, str]


class _Server(ThreadingHTTPServer):
    # Many clients connect at once.
    request_queue_size = 64


class ApiServer:
    """The part of an API server that forwards requests to pods; `answers` maps paths to answers."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[dict[str, list[str]]], Answer]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                outer.asked.append(url.path)
                answer = outer.answers.get(url.path, lambda _query: (503, "no endpoints"))
                status, text = answer(parse_qs(url.query))
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                # A reader that gives up in time hangs up.
                with suppress(ConnectionError):
                    self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                """Logs nothing."""

        self.server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def cluster(self) -> Cluster:
        address = f"http://127.0.0.1:{self.server.server_address[1]}"
        context = {"cluster": "c", "user": "u"}
        return Cluster(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "contexts": [{"name": "x", "context": context}],
                "clusters": [{"name": "c", "cluster": {"server": address}}],
                "users": [{"name": "u", "user": {"token": "none"}}],
            }
        )


def admin(name: str) -> str:
    return f"/api/v1/namespaces/app/pods/{name}:4191/proxy/metrics"
