"""A Prefect server for these tests, set up as a user does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.server.prefect_server import PrefectServer
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support.deployed_runs import Executor, executor_for
from tests.support.one_server import UNUSED_SERVICES
from tests.support.prefect_servers import Inbox, Server, on_server

DEPLOY = ("prefect", "deploy", "--all")
REGISTER = ("prefect_linkerd.deployments.register", "--pool-type", "kubernetes")
"""As in the docs."""


@pytest.fixture(scope="package")
def sandbox(binaries: Binaries) -> Iterator[Sandbox]:
    """A cluster for these tests, which stops after them: they are the first to need one."""
    with Sandbox("deployments", binaries=binaries) as running:
        yield running


@pytest.fixture(scope="package")
def cluster(sandbox: Sandbox) -> Cluster:
    return sandbox.cluster()


@pytest.fixture(scope="package")
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
    """A fresh server after `prefect deploy --all` and then `deployments.register`.

    The latter is for a mesh, with a place to notify; `server.deployed` is the state before it.
    """
    # These tests need schedules but no workers.
    settings = UNUSED_SERVICES | {"PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "true"}
    with PrefectServer(tmp_path_factory.mktemp("fresh"), settings=settings) as running:
        server = Server(running)
        server.command(*DEPLOY)
        server.deployed = server.everything()
        with on_server(server.api):
            _save_inbox(inbox)
        said = server.command(*REGISTER, "--mesh", str(mesh_file)).splitlines()
        assert said[0] == "Registered."
        # The pool existed already.
        [left] = said[1:]
        assert left.startswith("Work pool linkerd is of type process, ")
        yield server


@pytest.fixture(scope="package")
def executor(server: Server, binaries: Binaries) -> Iterator[Executor]:
    with executor_for(server.running.environment, binaries) as executor:
        yield executor


def _save_inbox(inbox: Inbox) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    CustomWebhookNotificationBlock(
        name="inbox",
        url=inbox.url,
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    ).save("linkerd-alerts")
