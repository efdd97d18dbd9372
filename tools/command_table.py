"""Writes docs/commands.md: how fast each command starts, and how it exits when something is wrong.

python -m tools.command_table      # or with the names of some commands, to update only their rows

Every cell is measured: each command runs as a user would run it, with a kubeconfig of no cluster,
of a server that refuses every request and of one that never answers, and with an invalid mesh file.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from prefect_linkerd.cli.app import commands

NEEDS_SERVER = ("new-releases",)
MANY = ("fleet",)
TIMEOUT = 120
PAGE = Path("docs/commands.md")
COLUMNS = (
    "command",
    "`--help`",
    "no cluster",
    "wrong context",
    "no permission",
    "bad file",
    "Ctrl-C",
)


@dataclass(frozen=True)
class End:
    """How a command ended: its exit code, its last line of output, and its duration."""

    code: int
    said: str
    seconds: float


def started(
    arguments: Sequence[str],
    folder: Path,
    kubeconfig: Path,
    stop: Callable[[], None] | None = None,
) -> End:
    """Runs a command in its own process, without a Prefect server and without a terminal.

    Args:
        stop: blocks until the command should get a Ctrl-C.
    """
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
        "KUBECONFIG": str(kubeconfig),
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect_linkerd", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment,
    )
    if stop is not None:
        stop()
        process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=TIMEOUT)
    lines = [line for line in text.splitlines() if line.strip()]
    return End(process.returncode, lines[-1] if lines else "", time.monotonic() - begin)


def kubeconfig(path: Path, server: str) -> Path:
    entry = {"name": "table", "cluster": {"server": server}}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "table",
                "clusters": [entry],
                "users": [{"name": "table", "user": {"username": "u", "password": "p"}}],
                "contexts": [{"name": "table", "context": {"cluster": "table", "user": "table"}}],
            }
        )
    )
    return path


@contextmanager
def refusing() -> Iterator[str]:
    """Runs an API server that authenticates every user and authorizes nothing."""

    class Handler(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            body = json.dumps(
                {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Failure",
                    "message": f'forbidden: User "u" cannot {self.command} {self.path}',
                    "reason": "Forbidden",
                    "code": 403,
                }
            ).encode()
            code = 403
            if self.path.startswith("/version"):
                body, code = b'{"gitVersion": "v1.34.0"}', 200
            elif "selfsubjectaccessreviews" in self.path:
                body, code = b'{"status": {"allowed": false}}', 201
            elif self.path in ("/api", "/apis") or self.path.count("/") in (2, 3):
                # Every authenticated user may use discovery.
                body, code = _discovery(self.path), 200
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = _refuse  # noqa: N815 as http.server names them

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def _discovery(path: str) -> bytes:
    names = {
        "/api/v1": [
            ("secrets", "Secret", True),
            ("configmaps", "ConfigMap", True),
            ("pods", "Pod", True),
            ("services", "Service", True),
            ("nodes", "Node", False),
            ("namespaces", "Namespace", False),
            ("serviceaccounts", "ServiceAccount", True),
        ],
        "/apis/apps/v1": [("deployments", "Deployment", True)],
        "/apis/apiextensions.k8s.io/v1": [
            ("customresourcedefinitions", "CustomResourceDefinition", False)
        ],
    }
    if path == "/apis":
        return json.dumps({"kind": "APIGroupList", "groups": []}).encode()
    resources = [
        {"name": name, "kind": kind, "namespaced": placed, "verbs": ["get", "list"]}
        for name, kind, placed in names.get(path, [])
    ]
    return json.dumps({"kind": "APIResourceList", "resources": resources}).encode()


@contextmanager
def silent() -> Iterator[tuple[str, Callable[[], None]]]:
    """Runs a server that never answers; yields its URL and a function that awaits a connection."""
    with ExitStack() as held, socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        listening.settimeout(TIMEOUT)

        def wait() -> None:
            held.enter_context(listening.accept()[0])

        yield f"http://127.0.0.1:{listening.getsockname()[1]}", wait


def rows(only: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Yields the rows of the table, for the given commands or for all."""
    with tempfile.TemporaryDirectory() as name, refusing() as forbidden:
        folder = Path(name)
        nobody = kubeconfig(folder / "nobody", "http://127.0.0.1:1")
        denied = kubeconfig(folder / "denied", forbidden)
        (folder / "bad.yaml").write_text("viz: {enabeld: true}\n")
        mesh = folder / "mesh.yaml"
        charts = Path(__file__).parents[1] / "sandbox/charts"
        mesh.write_text(f"trust_anchor: {{custody: in-cluster}}\ncharts: {{mirror: {charts}}}\n")
        for command in sorted(set(only) or commands()):
            given = [] if command in NEEDS_SERVER else [str(mesh)]
            own = ["--yes"] if command == "bootstrap" else []

            def end(*arguments: str, at: Path, stop: Callable[[], None] | None = None) -> End:
                return started([command, *own, *arguments], folder, at, stop)  # noqa: B023

            begins = started([command, "--help"], folder, nobody)
            print(f"{command}: {begins.seconds:.1f} s", file=sys.stderr, flush=True)
            if command in MANY:
                # With valid files it would start its own server and a process for each mesh.
                row = dict.fromkeys(("no cluster", "wrong context", "no permission"), "")
                ended = _cell(end(str(folder / "bad.yaml"), at=nobody))
                help_time = f"{begins.seconds:.1f} s"
                yield {
                    "command": f"`{command}`",
                    "`--help`": help_time,
                    **row,
                    "bad file": ended,
                    "Ctrl-C": "",
                }
                continue
            interrupted = ""
            if command not in NEEDS_SERVER:
                # A server of its own, which no connection of an earlier command can reach.
                with silent() as (hanging, reached):
                    hangs = kubeconfig(folder / "hangs", hanging)
                    interrupted = _cell(end(*given, at=hangs, stop=reached), says=False)
            wrong = [] if command in (*NEEDS_SERVER, *MANY) else ["--context", "wrong"]
            bad = [] if command in NEEDS_SERVER else [str(folder / "bad.yaml")]
            yield {
                "command": f"`{command}`",
                "`--help`": f"{begins.seconds:.1f} s",
                "no cluster": _cell(end(*given, at=nobody)),
                "wrong context": _cell(end(*given, *wrong, at=nobody)) if wrong else "",
                "no permission": _cell(end(*given, at=denied)),
                "bad file": _cell(end(*bad, at=nobody)) if bad else "",
                "Ctrl-C": interrupted,
            }


def _cell(end: End, *, says: bool = True) -> str:
    said = f" after {end.seconds:.1f} s" if says else ""
    return f"{end.code}{said}"


def with_rows(text: str, found: Iterable[Mapping[str, str]]) -> str:
    """Returns the page with new rows; the rows of other commands stay."""
    new = [f"| {' | '.join(row[column] for column in COLUMNS)} |" for row in found]
    measured = {row.split(" ")[1] for row in new}
    old = [line for line in text.splitlines() if line.startswith("| `")]
    return page([*new, *(row for row in old if row.split(" ")[1] not in measured)])


def page(found: Iterable[str]) -> str:
    lines = [
        "# Commands, measured",
        "",
        "Made by `python -m tools.command_table`: each cell is an exit code and the time",
        "until the command ended. 0: success; 1: failed; 2: wrong input, nothing was changed; 130:",
        "interrupted. `--help` is the time that a command takes to start.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
        *sorted(found),
        "",
        "`new-releases` needs a Prefect server, and says so. `fleet` starts its own for mesh",
        "files, which takes seconds.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = PAGE.read_text() if sys.argv[1:] else ""
    PAGE.write_text(with_rows(text, rows(sys.argv[1:])))
