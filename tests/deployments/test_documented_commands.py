"""The docs' commands and programs for a Prefect server, run on one that is set up."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from prefect import get_client

from prefect_linkerd.deployments import register
from prefect_linkerd.mesh.config.model import ClusterAccess
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from tests.deployments.conftest import DEPLOY, REGISTER
from tests.support.pages import of, programs
from tests.support.prefect_servers import Server, on_server

pytestmark = pytest.mark.xdist_group("deployments")

OF_A_TEAM = ("server", "worker")
"""Commands that tests/deployments/team runs."""

REGISTERED = ("python", "-m", *REGISTER)


def test_commands_of_prefect_run(server: Server) -> None:
    asked = dict.fromkeys(c.words for c in of("prefect") if c.words[1] not in OF_A_TEAM)
    # The fixture has run it.
    del asked[DEPLOY]
    for words in asked:
        server.command(*words)
    [parameters] = [json.loads(words[-1]) for words in asked if "--params" in words]
    [run] = [run for run in server.runs("fleet") if run["parameters"] == parameters]
    server.request("DELETE", f"flow_runs/{run['id']}")


def test_the_server_was_registered_as_the_docs_have_it() -> None:
    found = {c.words for c in of("python") if "prefect_linkerd.deployments.register" in c.words}
    assert found == {REGISTERED}


def test_a_pool_of_kubernetes_is_made_where_there_is_none(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register, "POOL", "linkerd-on-kubernetes")

    async def ensure() -> list[str]:
        async with get_client() as client:
            return await register.ensure_pool(client, "kubernetes")

    with on_server(server.api):
        assert [asyncio.run(ensure()) for _ in range(2)] == [[], []]
    pool = server.get("work_pools/linkerd-on-kubernetes")
    assert pool["type"] == "kubernetes"
    assert pool["base_job_template"]["job_configuration"]["job_manifest"]["kind"] == "Job"
    server.request("DELETE", "work_pools/linkerd-on-kubernetes")


def test_programs_run_as_far_as_to_look_for_the_cluster(server: Server, tmp_path: Path) -> None:
    access = ClusterAccess(kubeconfig=tmp_path / "none")
    with on_server(server.api):
        LinkerdMesh(name="production", access=access).save("production")
        for text in programs():
            with pytest.raises(InvalidInput, match="expected a readable kubeconfig file"):
                exec(compile(text, "page", "exec"), {})  # noqa: S102 a program of our own docs
        LinkerdMesh.delete("production")
