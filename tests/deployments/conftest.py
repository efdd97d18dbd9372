"""A Prefect server of these tests' own, set up as a user sets theirs up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

from sandbox.cluster import Sandbox
from sandbox.prefect_server import PrefectServer
from tests import conftest
from tests.conftest import on_server

ROOT = Path(__file__).parents[2]
T = TypeVar("T")


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 503


@retry(
    # SQLite has one writer; a busy server asks to come again, as its own client does.
    retry=retry_if_exception(_is_busy),
    wait=wait_fixed(1),
    stop=stop_after_attempt(30),
    reraise=True,
)
def request(method: str, url: str, body: Any = None) -> Any:
    """What a Prefect server's API answers."""
    answer = conftest.request(method, url, body)
    return answer.json() if answer.content else None


class Inbox:
    """Where notifications arrive: a web hook on loopback."""

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
    """A Prefect server as its API shows it, and the commands that a user gives it."""

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
        """By the names of the flows' functions, which commands and options have as well."""
        found = self.ask("deployments/filter")
        return {d["name"].removeprefix("linkerd-").replace("-", "_"): d for d in found}

    def automations(self) -> dict[str, dict[str, Any]]:
        return {a["name"]: a for a in self.ask("automations/filter")}

    def everything(self) -> dict[str, set[str]]:
        """The names of all that is set up: deployments, their schedules, automations, and so on."""
        deployments = self.deployments()
        return {
            "deployments": {d["name"] for d in deployments.values()},
            "schedules": {s["slug"] for d in deployments.values() for s in d["schedules"]},
            "automations": set(self.automations()),
            "pools": {pool["name"] for pool in self.ask("work_pools/filter")},
            "block types": {kind["slug"] for kind in self.ask("block_types/filter")},
        }

    def runs(self, deployment: str, **flow_runs: Any) -> list[dict[str, Any]]:
        """The runs of a deployment that no schedule made."""
        found = self.ask(
            "flow_runs/filter",
            deployments={"id": {"any_": [self.deployments()[deployment]["id"]]}},
            flow_runs=flow_runs,
        )
        return [run for run in found if not run["auto_scheduled"]]


@pytest.fixture(scope="session")
def mesh_file(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> Path:
    """The configuration of a mesh on a cluster without Linkerd."""
    path = tmp_path_factory.mktemp("meshes") / "north.yaml"
    path.write_text(
        json.dumps(
            {
                "name": "north",
                "access": {"kubeconfig": str(sandbox.kubeconfig)},
                "upgrade": {"automatic": "approved"},
            }
        )
    )
    return path


@pytest.fixture(scope="package")
def inbox() -> Iterator[Inbox]:
    opened = Inbox()
    yield opened
    opened.close()


@pytest.fixture(scope="package")
def server(
    tmp_path_factory: pytest.TempPathFactory, inbox: Inbox, mesh_file: Path
) -> Iterator[Server]:
    """A fresh server after `prefect deploy --all` alone, and then `deployments.register`.

    The latter for a mesh, with a place to notify; `server.deployed` is what there was before.
    """
    with PrefectServer(tmp_path_factory.mktemp("fresh")) as running:
        server = Server(running)
        server.command("prefect", "--no-prompt", "deploy", "--all")
        server.deployed = server.everything()
        with on_server(server.api):
            _save_inbox(inbox)
        said = server.command("deployments.register", "--mesh", str(mesh_file))
        assert said == "Registered.\n"
        yield server


def _save_inbox(inbox: Inbox) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    CustomWebhookNotificationBlock(
        name="inbox",
        url=inbox.url,
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    ).save("linkerd-alerts")
