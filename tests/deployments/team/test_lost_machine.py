"""A worker and an API server are lost during a change, and the others finish it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from prefect import get_client

from prefect_linkerd.deployments.automations import lost_runs
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.snapshot.expiry import read_expiries
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from sandbox.cluster import Sandbox
from tests.deployments.team.conftest import TeamServer
from tests.support.prefect_servers import on_server
from tests.support.waiting import eventually

pytestmark = [pytest.mark.waits, pytest.mark.xdist_group("team")]

PATIENCE = timedelta(seconds=50)
"""How long a run may lack a heartbeat; Prefect sends at most one every 30 s."""


def test_a_change_on_a_machine_that_is_lost_is_finished_by_the_others(
    server: TeamServer, fresh_sandbox: Callable[..., Sandbox], charts_dir: Path
) -> None:
    team, sandbox = server.team, fresh_sandbox("team")
    mesh = LinkerdMesh.model_validate(
        {
            "name": "team",
            "access": {"kubeconfig": str(sandbox.kubeconfig)},
            "charts": {"mirror": str(charts_dir)},
            "viz": {"enabled": False},
            "traefik": {"enabled": False},
            "emojivoto": {"enabled": False},
        }
    )
    with on_server(f"{team.urls[0]}/api"):
        mesh.save("team")
        watch_over_runs()
    server.await_worker("first", replica=0)
    chosen = {"$ref": {"block_document_slug": "linkerd-mesh/team"}}
    run = server.create_run("bootstrap", mesh=chosen)
    cluster = sandbox.cluster()
    issuer = eventually(
        lambda: cluster.get("v1", "Secret", "linkerd-identity-issuer", "linkerd"), 240
    )
    assert issuer is not None
    assert server.state(run)["type"] == "RUNNING"
    team.kill("first")
    team.kill("api-0")
    server.await_worker("second", replica=1)

    eventually(lambda: server.state(run)["type"] == "COMPLETED", 400)
    story = server.get(f"flow_run_states/?flow_run_id={run}")
    kinds = [state["type"] for state in story]
    assert kinds.count("CRASHED") == 1
    assert kinds.index("RUNNING") < kinds.index("CRASHED") < kinds.index("COMPLETED")
    [crashed] = [state for state in story if state["type"] == "CRASHED"]
    assert "its worker is lost" in crashed["message"]
    assert server.get(f"flow_runs/{run}")["run_count"] == 2
    # The second run resumed from what the first had made, and the mesh is complete.
    now = cluster.get("v1", "Secret", "linkerd-identity-issuer", "linkerd")
    assert now is not None
    assert now["data"] == issuer["data"]
    roles = {expiry.role for expiry in read_expiries(Mesh(cluster, mesh))}
    assert {"trust anchor", "issuer", "webhook"} <= roles


def watch_over_runs() -> None:
    """Like deployments.register, but with less patience, and enables what users have to enable."""

    async def work() -> None:
        async with get_client() as client:
            for automation in lost_runs(PATIENCE):
                automation.enabled = True
                await client.create_automation(automation)

    asyncio.run(work())
