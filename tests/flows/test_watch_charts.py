"""A chart release in a real repository starts one upgrade, through a real Prefect server."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.server.prefect_server import PrefectServer
from prefect_linkerd.tasks.chart_releases import BROKEN, RELEASED
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support.flows import ConfigFactory
from tests.support.prefect_servers import ask
from tests.support.waiting import eventually

CHARTS = ("linkerd-crds", "linkerd-control-plane")


class Repository:
    """A Helm repository on loopback that serves only an index."""

    def __init__(self) -> None:
        self.index = b""
        self.answers: list[int] = []
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                etag = f'"{hashlib.sha256(repository.index).hexdigest()}"'
                is_same = self.headers.get("If-None-Match") == etag
                repository.answers.append(304 if is_same else 200)
                self.send_response(304 if is_same else 200)
                self.send_header("ETag", etag)
                self.end_headers()
                if not is_same:
                    self.wfile.write(repository.index)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Logs nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def publish(self, *versions: str, crds: tuple[str, ...] | None = None) -> None:
        """Writes an index with edge releases such as 26.8.3."""
        released = dict(zip(CHARTS, (versions if crds is None else crds, versions), strict=True))
        entries = {
            name: [
                {"version": f"20{v}", "appVersion": f"edge-{v}", "urls": [f"{name}-20{v}.tgz"]}
                for v in released[name]
            ]
            for name in CHARTS
        }
        self.index = yaml.safe_dump({"apiVersion": "v1", "entries": entries}).encode()


@pytest.fixture
def repository() -> Iterator[Repository]:
    running = Repository()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def watcher(
    prefect_server: PrefectServer, binaries: Binaries, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    environment = os.environ | prefect_server.environment
    environment["PATH"] = os.pathsep.join([str(binaries.helm.parent), environment["PATH"]])
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.flows.run_watch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        ) as process,
    ):

        def ask(do: str, **request: Any) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, (tmp_path / "log").read_text()[-3000:]
            return json.loads(line)

        try:
            yield ask
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)


def events(server: PrefectServer, name: str, source: str) -> list[dict[str, Any]]:
    """The server's events of a kind about a repository."""
    found = ask(server, "events/filter", filter={"event": {"name": [name]}})["events"]
    return [event for event in found if event["payload"]["source"] == source]


def test_a_release_starts_one_upgrade_and_a_broken_index_none(
    sandbox: Sandbox,
    mesh_config: ConfigFactory,
    prefect_server: PrefectServer,
    repository: Repository,
    watcher: Callable[..., Any],
) -> None:
    config = mesh_config(
        sandbox,
        name="subscribed",
        version="edge-25.4.4",
        upgrade={"automatic": "unattended"},
    )
    automations = watcher("setup", config=config)["automations"]
    assert automations.count("linkerd: upgrade subscribed on edge releases") == 1

    # It checks the repositories from which the saved meshes take their charts.
    assert f"{config['charts']['mirror']}/edge" in watcher("repositories")

    # The first look only records the releases.
    repository.publish("25.4.4")
    assert watcher("look", repositories=[repository.url]) == {"new": []}

    # A control plane without its CRDs' chart is no release yet.
    repository.publish("26.8.3", "25.4.4", crds=("25.4.4",))
    assert watcher("look", repositories=[repository.url]) == {"new": []}
    repository.publish("26.8.3", "25.4.4")
    # A dry run neither announces nor records it: the next run does.
    for dry_run in (True, True, False):
        new = watcher("look", repositories=[repository.url], dry_run=dry_run)
        assert new == {"new": ["edge-26.8.3"]}
    released = eventually(lambda: events(prefect_server, RELEASED, repository.url))
    assert [event["payload"]["version"] for event in released] == ["edge-26.8.3"]
    assert released[0]["resource"]["prefect.resource.id"] == "linkerd.charts.edge"
    assert released[0]["payload"]["charts"] == dict.fromkeys(CHARTS, "2026.8.3")

    started = eventually(lambda: watcher("runs"))
    assert len(started) == 1
    assert started[0]["parameters"]["to"] == "edge-26.8.3"
    block = started[0]["parameters"]["mesh"]["$ref"]["block_document_id"]
    assert block

    # The run uses the block's mesh: it connects to its cluster, which has no Linkerd.
    ended = watcher("execute", run=started[0]["id"])
    assert ended["state"] == "Failed"
    assert "a mesh that was installed by Helm" in ended["message"]

    # Nothing is announced twice, by an unchanged index or by a changed one.
    assert watcher("look", repositories=[repository.url]) == {"new": []}
    assert repository.answers[-1] == 304
    repository.index += b"\n# another ETag\n"
    assert watcher("look", repositories=[repository.url]) == {"new": []}
    assert repository.answers[-1] == 200

    # Broken in several ways: each raises an alert, and the other repositories are still checked.
    for index in (b"entries: [", b"<html>Not found</html>", b"apiVersion: v1\nentries: {}\n"):
        repository.index = index
        for dry_run in (True, False):
            answer = watcher("look", repositories=[repository.url], dry_run=dry_run)
            assert repository.url in answer["error"]
    alerts = lambda: events(prefect_server, BROKEN, repository.url)  # noqa: E731
    assert eventually(lambda: len(alerts()) == 3)

    # Repaired, with one more release: only that one is new.
    repository.publish("26.9.1", "26.8.3", "25.4.4")
    assert watcher("look", repositories=[repository.url]) == {"new": ["edge-26.9.1"]}
    found = eventually(lambda: r if len(r := watcher("runs")) > 1 else None)
    [second] = [run for run in found if run["id"] != started[0]["id"]]
    # The block is now set to off, but without a new deploy the automation still exists.
    watcher("save", config={**config, "upgrade": {"automatic": "off"}})
    skipped = watcher("execute", run=second["id"])
    assert skipped["state"] == "Skipped"
    assert "upgrade.automatic of mesh subscribed is off" in skipped["message"]
    assert eventually(lambda: len(events(prefect_server, RELEASED, repository.url)) == 2)
