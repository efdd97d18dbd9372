"""Prefect servers as seen through their API, and the commands that users run against them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

from prefect_linkerd.server.loopback import NO_TLS
from prefect_linkerd.server.own_worker import COMMAND
from prefect_linkerd.server.prefect_server import PrefectServer
from prefect_linkerd.tasks.names import full_name
from tests.support.repository import ROOT
from tests.support.waiting import eventually


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 503


@retry(
    # SQLite has one writer; a busy server answers 503, which Prefect's own client retries too.
    retry=retry_if_exception(_is_busy),
    wait=wait_fixed(1),
    stop=stop_after_attempt(30),
    reraise=True,
)
def request(method: str, url: str, body: Any = None) -> Any:
    """The JSON that a server on loopback answers, None if empty; raises if it is an error."""
    answer = httpx.request(method, url, json=body, timeout=60, trust_env=False, verify=NO_TLS)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def ask(server: PrefectServer, path: str, **body: Any) -> Any:
    """What a server answers to a POST with a body."""
    return request("POST", f"{server.url}/api/{path}", body)


def runs_in_one_process(api: str, deployment: str) -> None:
    """Sets, as users may, that a run of a deployment takes one process; the default is three.

    Each imports Prefect, and two of them only fetch code that is already installed.
    test_lost_machine has a run with the default.
    """
    found = request("GET", f"{api}/deployments/name/{full_name(deployment)}")
    variables = {**found["job_variables"], "command": COMMAND}
    request("PATCH", f"{api}/deployments/{found['id']}", {"job_variables": variables})


def events(server: PrefectServer, mesh: str, prefix: str, number: int = 1) -> list[dict[str, Any]]:
    """The events about a mesh, once there are `number`: they are sent in the background."""

    def look() -> list[dict[str, Any]]:
        about = {"event": {"prefix": [prefix]}, "resource": {"id": [f"linkerd.mesh.{mesh}"]}}
        found = ask(server, "events/filter", filter=about)["events"]
        return found if len(found) >= number else []

    return eventually(look)


def artifact(server: PrefectServer, key: str) -> Any:
    """The data of the newest artifact with a key."""
    return request("GET", f"{server.url}/api/artifacts/{key}/latest")["data"]


@contextmanager
def on_server(api: str) -> Iterator[None]:
    """Makes Prefect in this process use the server with this API, for events as well.

    Prefect keeps one events worker per process, for whichever server it was created.
    """
    EventsWorker.drain_all()
    with temporary_settings({PREFECT_API_URL: api}):
        yield
        EventsWorker.drain_all()


def everything_kept(server: PrefectServer) -> str:
    """The whole database and the server's log, as text."""
    found = [server.log.read_text(errors="replace")]
    with sqlite3.connect(server.home / "prefect.db") as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            rows = database.execute(f'SELECT * FROM "{table}"').fetchall()  # noqa: S608
            found += [str(value) for row in rows for value in row if value is not None]
    return "\n".join(found)


class Inbox:
    """Receives notifications: a webhook on loopback."""

    def __init__(self) -> None:
        messages: list[dict[str, str]] = []
        self.messages = messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                messages.append(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def about(self, text: str) -> list[dict[str, str]]:
        return [message for message in self.messages if text in message["subject"]]


class Server:
    """A Prefect server as seen through its API, and the commands that users run against it."""

    def __init__(self, running: PrefectServer) -> None:
        self.running = running
        self.api = f"{running.url}/api"
        self.deployed: dict[str, set[str]] = {}

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=os.environ | self.running.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def request(self, method: str, path: str, body: Any = None) -> Any:
        return request(method, f"{self.api}/{path}", body)

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def ask(self, path: str, **body: Any) -> Any:
        return self.request("POST", path, body)

    def deployments(self) -> dict[str, dict[str, Any]]:
        """Deployments by the names of their flows' functions, as in commands and options."""
        found = self.ask("deployments/filter")
        return {d["name"].removeprefix("linkerd-").replace("-", "_"): d for d in found}

    def automations(self) -> dict[str, dict[str, Any]]:
        return {a["name"]: a for a in self.ask("automations/filter")}

    def everything(self) -> dict[str, set[str]]:
        """The names of everything set up: deployments, their schedules, automations and so on."""
        deployments = self.deployments()
        return {
            "deployments": {d["name"] for d in deployments.values()},
            "schedules": {s["slug"] for d in deployments.values() for s in d["schedules"]},
            "automations": set(self.automations()),
            "pools": {pool["name"] for pool in self.ask("work_pools/filter")},
            "block types": {kind["slug"] for kind in self.ask("block_types/filter")},
        }

    def runs(self, deployment: str, **flow_runs: Any) -> list[dict[str, Any]]:
        """The runs of a deployment that no schedule created."""
        found = self.ask(
            "flow_runs/filter",
            deployments={"id": {"any_": [self.deployments()[deployment]["id"]]}},
            flow_runs=flow_runs,
        )
        return [run for run in found if not run["auto_scheduled"]]
