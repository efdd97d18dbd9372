"""`upgrade` as a deployment: delayed until its window opens, approved by a user, then done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.helm.records import read_releases
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from tests.support.deployed_runs import Executed, Executor
from tests.support.prefect_servers import Inbox, Server, on_server
from tests.support.ready_meshes import ReadyMesh
from tests.support.upgrades import proxies
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("deployments")

SOURCE, TARGET = "edge-25.4.4", "edge-26.8.3"
MESH = {"$ref": {"block_document_slug": "linkerd-mesh/approved"}}


def begin(server: Server, **parameters: Any) -> str:
    """Creates a run of the deployment as the UI would; returns its id."""
    path = f"deployments/{server.deployments()['upgrade']['id']}/create_flow_run"
    return server.ask(path, parameters={"mesh": MESH, "to": TARGET, **parameters})["id"]


@contextmanager
def executed(executor: Executor, run: str) -> Iterator[Executed]:
    """Executes a run in the background, as a worker would."""
    process = executor.start(run, Path(os.devnull))
    is_over = False
    try:
        yield process
        process.wait(timeout=300)
        is_over = True
    finally:
        # After the wait, another process may have its id.
        if not is_over:
            process.kill()


def state(server: Server, run: str) -> dict[str, Any]:
    return server.get(f"flow_runs/{run}")["state"]


def test_a_run_waits_for_its_window_and_for_a_person(
    server: Server,
    executor: Executor,
    inbox: Inbox,
    ready_mesh: ReadyMesh,
) -> None:
    sandbox, config = ready_mesh(SOURCE)
    cluster = sandbox.cluster()
    own = {"name": "approved", "access": {"kubeconfig": str(sandbox.kubeconfig)}}
    installed = read_releases(cluster)

    def save(**policy: Any) -> None:
        with on_server(server.api):
            content = config.model_dump() | own | {"upgrade": policy}
            LinkerdMesh.model_validate(content).save("approved", overwrite=True)

    # Outside the window: rescheduled once for when it opens, with the same parameters.
    later = datetime.now(UTC) + timedelta(hours=12)
    save(window={"cron": f"{later.minute} {later.hour} * * *", "duration_minutes": 30})
    early = [begin(server) for _ in range(2)]
    for run in early:
        with executed(executor, run):
            pass
        assert state(server, run)["type"] == "COMPLETED", state(server, run)
    wanted = [r for r in server.runs("upgrade") if r["parameters"].get("mesh") == MESH]
    [put_off] = [run for run in wanted if run["id"] not in early]
    assert put_off["parameters"] == {"mesh": MESH, "to": TARGET}
    assert put_off["state"]["type"] == "SCHEDULED"
    opening = datetime.fromisoformat(put_off["expected_start_time"])
    assert opening == later.replace(second=0, microsecond=0)
    assert read_releases(cluster) == installed

    # Inside the window, a user rejects it.
    save(window={"cron": "* * * * *", "duration_minutes": 5}, approval=True)
    refused = begin(server)
    with executed(executor, refused):
        eventually(lambda: state(server, refused)["type"] == "PAUSED")
        plan = server.get("artifacts/linkerd-approved-upgrade-plan/latest")["data"]
        assert f"upgrade from {SOURCE} to {TARGET}" in plan
        assert read_releases(cluster) == installed
        eventually(lambda: inbox.about(f"upgrade approved {TARGET} waits for approval"))
        server.ask(f"flow_runs/{refused}/resume", run_input={"approved": False})
    assert state(server, refused)["type"] == "FAILED"
    assert "found that it was rejected" in state(server, refused)["message"]
    assert read_releases(cluster) == installed

    # Then a user approves it.
    approved = begin(server)
    with executed(executor, approved):
        eventually(lambda: state(server, approved)["type"] == "PAUSED")
        server.ask(f"flow_runs/{approved}/resume", run_input={"approved": True})
    assert state(server, approved)["type"] == "COMPLETED", state(server, approved)
    assert proxies(cluster) == {TARGET}
    page = server.get("artifacts/linkerd-approved-upgrade/latest")["data"]
    assert f"Mesh approved: upgraded to {TARGET}" in page
    upgraded = {
        "event": {"name": ["linkerd.mesh.upgraded"]},
        "resource": {"id": ["linkerd.mesh.approved"]},
    }
    [event] = eventually(lambda: server.ask("events/filter", filter=upgraded)["events"])
    assert (event["payload"]["from"], event["payload"]["to"]) == (SOURCE, TARGET)
    # The block has the installed version, so bootstrap and the next upgrade start from it.
    with on_server(server.api):
        stored = LinkerdMesh.load("approved")
        assert (stored.version, stored.upgrade.approval) == (TARGET, True)
        LinkerdMesh.delete("approved")
