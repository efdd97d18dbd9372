"""One team's server for these tests: PostgreSQL, Redis, two replicas and separate services."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from prefect_linkerd.server.own_server import UNUSED
from prefect_linkerd.tasks.names import deployment_name, full_name
from sandbox.binaries import Binaries
from sandbox.team import Team
from tests.support.deployed_runs import Executor, executor_for
from tests.support.prefect_servers import request
from tests.support.repository import ROOT
from tests.support.waiting import eventually

BY_HAND = "by-hand"
DEPLOYED = tuple(deployment_name(flow) for flow in ("bootstrap", "check_certificates", "fleet"))


class TeamServer:
    """A team's server as seen through its API, on any replica that is alive."""

    def __init__(self, team: Team) -> None:
        self.team = team

    def get(self, path: str, replica: int = 1) -> Any:
        return request("GET", f"{self.team.urls[replica]}/api/{path}")

    def ask(self, path: str, replica: int = 1, **body: Any) -> Any:
        return request("POST", f"{self.team.urls[replica]}/api/{path}", body)

    def state(self, run: str) -> dict[str, Any]:
        return self.get(f"flow_runs/{run}")["state"]

    def create_run(self, deployment: str, /, *, queue: str = "default", **parameters: Any) -> str:
        found = self.get(f"deployments/name/{full_name(deployment)}")
        path = f"deployments/{found['id']}/create_flow_run"
        return self.ask(path, parameters=parameters, work_queue_name=queue)["id"]

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment that no schedule created."""
        found = self.ask(
            "flow_runs/filter", deployments={"name": {"any_": [deployment_name(deployment)]}}
        )
        return [run for run in found if not run["auto_scheduled"]]

    def workers(self, replica: int) -> set[str]:
        found = self.ask("work_pools/linkerd/workers/filter", replica=replica)
        return {worker["name"] for worker in found if worker["status"] == "ONLINE"}

    def await_worker(self, name: str, replica: int) -> None:
        self.team.start_worker(name, replica=replica)
        eventually(lambda: name in self.workers(replica))


@pytest.fixture(scope="package")
def server(binaries: Binaries) -> Iterator[TeamServer]:
    """The server with some of the deployments; `prefect deploy` creates its work pool."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        # These tests use neither the UI nor Prefect's own blocks.
        for name, value in UNUSED.items():
            patch.setenv(name, value)
        team = stack.enter_context(Team())
        patch.setenv("PATH", os.pathsep.join([str(binaries.helm.parent), os.environ["PATH"]]))
        names = [word for name in DEPLOYED for word in ("--name", name)]
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *names],
            cwd=ROOT,
            env=os.environ | team.environment(1),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        server = TeamServer(team)
        # No worker serves this queue: tests execute and kill its runs themselves.
        server.ask("work_pools/linkerd/queues", name=BY_HAND)
        yield server


@pytest.fixture(scope="package")
def executor(server: TeamServer, binaries: Binaries) -> Iterator[Executor]:
    """For runs that tests execute and kill themselves."""
    with executor_for(server.team.environment(1), binaries) as executor:
        yield executor
