"""A fleet on a real server with a real worker: waves, a stop, and resuming a killed run."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from sandbox.cluster import Sandbox
from tests.deployments.team.conftest import BY_HAND, TeamServer
from tests.support.deployed_runs import Executed, Executor
from tests.support.fleets import give_certificates, stand_ins
from tests.support.pages import of
from tests.support.prefect_servers import on_server, runs_in_one_process
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("team")

MESHES = ("canary", "weak", "last")


@pytest.fixture
def meshes(server: TeamServer, sandbox: Sandbox) -> Iterator[dict[str, str]]:
    """Three meshes on one cluster and their namespaces; the certificates of `weak` have expired."""
    with stand_ins(sandbox, MESHES, ended=["weak"]) as fields:
        with on_server(f"{server.team.urls[1]}/api"):
            for name, content in fields.items():
                LinkerdMesh.model_validate(content).save(name)
        yield {name: content["namespaces"]["linkerd"] for name, content in fields.items()}


def of_the_docs() -> list[list[str]]:
    """The docs' commands for a server and its workers."""
    return [list(c.words[1:]) for c in of("prefect") if c.words[1] in ("server", "worker")]


def team_ran(server: TeamServer, words: list[str]) -> bool:
    """Whether the team ran a command, maybe with more options; hosts and numbers are ignored."""
    wanted = {word for word in words if not re.fullmatch(r"[\d.]+", word)}
    return any(wanted <= set(command) for command in server.team.commands)


def test_a_fleet_stops_at_a_failure_and_a_killed_one_starts_no_mesh_twice(
    server: TeamServer, executor: Executor, meshes: dict[str, str], cluster: Cluster
) -> None:
    runs_in_one_process(f"{server.team.urls[1]}/api", "check_certificates")
    server.await_worker("fleet-worker", replica=1)
    assert [words for words in of_the_docs() if not team_ran(server, words)] == []
    parameters: dict[str, Any] = {
        "meshes": list(MESHES),
        "deployment": "check_certificates",
        "options": {"canaries": ["canary"], "at_once": 1},
        "round_name": "november",
    }

    planned = server.create_run("fleet", queue=BY_HAND, **parameters, dry_run=True)
    assert execute(executor, planned).wait(300) == 0
    assert server.runs("check_certificates") == []
    assert [row["wave"] for row in table(server)] == [1, 2, 2]

    first = server.create_run("fleet", queue=BY_HAND, **parameters)
    execute(executor, first).wait(300)
    stopped = server.state(first)
    assert stopped["type"] == "FAILED"
    assert "1 of 3 meshes succeeded; failed: weak (Failed)" in stopped["message"]
    assert outcomes(server) == {"canary": "succeeded", "weak": "failed", "last": "waiting"}
    said = latest(server)["description"].splitlines()
    assert said[:2] == ["check_certificates of 3 meshes", ""]
    assert said[2].startswith("- **weak**: ")

    # `weak` is repaired; the next run is killed as soon as it has started on it.
    give_certificates(cluster, meshes["weak"], days=300)
    killed = server.create_run("fleet", queue=BY_HAND, **parameters)
    process = execute(executor, killed)
    eventually(lambda: len(runs_of(server, "weak")) == 2)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    # As the automation for runs without a heartbeat does; this frees the run's slot.
    crashed = {"type": "CRASHED"}
    server.ask(f"flow_runs/{killed}/set_state", state=crashed, force=True)

    last = server.create_run("fleet", queue=BY_HAND, **parameters)
    assert execute(executor, last).wait(300) == 0
    assert server.state(last)["message"] == "3 of 3 meshes succeeded"
    assert outcomes(server) == dict.fromkeys(MESHES, "succeeded")
    assert {mesh: len(runs_of(server, mesh)) for mesh in MESHES} == {
        "canary": 1,
        "weak": 2,
        "last": 1,
    }
    # In order, one at a time.
    runs = sorted(server.runs("check_certificates"), key=lambda run: run["start_time"])
    assert [r["name"].rpartition(" ")[2] for r in runs] == ["canary", "weak", "weak", "last"]
    assert all(one["end_time"] <= other["start_time"] for one, other in pairwise(runs))
    server.team.kill("fleet-worker")


def execute(executor: Executor, run: str) -> Executed:
    """Executes a fleet's run in a process of its own, so that a kill affects it alone."""
    return executor.start(run, Path(os.devnull))


def runs_of(server: TeamServer, mesh: str) -> list[dict[str, Any]]:
    slug = {"$ref": {"block_document_slug": f"linkerd-mesh/{mesh}"}}
    return [r for r in server.runs("check_certificates") if r["parameters"]["mesh"] == slug]


def latest(server: TeamServer) -> dict[str, Any]:
    return server.get("artifacts/linkerd-fleet-check-certificates/latest")


def table(server: TeamServer) -> list[dict[str, Any]]:
    return json.loads(latest(server)["data"])


def outcomes(server: TeamServer) -> dict[str, str]:
    return {row["mesh"]: row["outcome"] for row in table(server)}
