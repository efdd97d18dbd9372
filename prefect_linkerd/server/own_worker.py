"""A worker for a fleet from a terminal: runs each mesh in its own process on this machine.

The fleet flow takes names of blocks and a deployment; both are created here, on the local server.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any, cast
from uuid import UUID

from filelock import FileLock, Timeout
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import State
from prefect.flows import Flow
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.server.own_server import home
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.names import TAG, deployment_name

POOL = "terminal"
STAY: dict[str, Any] = {"prefect.deployments.steps.set_working_directory": {"directory": "."}}
"""Without a pull step, Prefect copies the whole working directory for every run."""
COMMAND = shlex.join([sys.executable, "-m", "prefect.engine"])
"""Replaces the default command, which uses three processes for a run, each importing Prefect.

Two of them fetch the run's code, which is already installed here.
"""


@contextmanager
def prepared(meshes: Mapping[str, MeshConfig], flow_name: str, at_once: int) -> Generator[None]:
    """Creates the fleet's blocks and deployment on this process's server, and runs a worker.

    Args:
        meshes: by name; a block of an earlier fleet is updated.
        flow_name: the flow to run for each mesh.
        at_once: how many runs the worker runs at once; 0 for a plan, which needs no worker.

    Raises:
        InvalidInput: this user is already running a fleet from a terminal.
    """
    with _single_fleet_lock(), _worker_for(meshes, flow_name, at_once):
        yield


@contextmanager
def _single_fleet_lock() -> Generator[None]:
    """Allows one fleet at a time: its worker would also pick up another fleet's runs."""
    lock = FileLock(home() / "fleet.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InvalidInput(
            "fleet",
            expected="no other fleet run from a terminal of this user",
            found="one that is running",
            remedy="Wait until it finishes.",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _worker_for(meshes: Mapping[str, MeshConfig], flow_name: str, at_once: int) -> Generator[None]:
    for name, config in meshes.items():
        LinkerdMesh.model_validate(config.model_dump()).save(name, overwrite=True)  # pyright: ignore[reportUnusedCoroutine]
    with get_client(sync_client=True) as client:
        pool = WorkPoolCreate(name=POOL, type="process", description="Fleets from a terminal")
        client.create_work_pool(pool, overwrite=True)
        _crash_lost_runs(client)
    flow = cast(
        "Flow[..., Any]", getattr(import_module(f"prefect_linkerd.flows.{flow_name}"), flow_name)
    )
    deployment = cast(
        "Any",
        flow.to_deployment(
            deployment_name(flow_name),
            work_pool_name=POOL,
            entrypoint_type=EntrypointType.MODULE_PATH,
            tags=[TAG],
            job_variables={"command": COMMAND},
        ),
    )
    applied: UUID = deployment.apply()
    with get_client(sync_client=True) as client:
        client.update_deployment(applied, DeploymentUpdate(pull_steps=[STAY]))
    with _worker(at_once) if at_once else nullcontext():
        yield


def _crash_lost_runs(client: SyncPrefectClient) -> None:
    """Marks runs that a lost worker left unfinished as crashed.

    None of them can still be running: there is only one worker at a time, and none yet.
    """
    begun = FlowRunFilter.model_validate(
        {"state": {"type": {"any_": ["PENDING", "RUNNING", "PAUSED", "CANCELLING"]}}}
    )
    own = WorkPoolFilter.model_validate({"name": {"any_": [POOL]}})
    for run in client.read_flow_runs(flow_run_filter=begun, work_pool_filter=own):
        crashed: State[Any] = Crashed(message="Its worker was lost.")
        client.set_flow_run_state(run.id, crashed, force=True)


@contextmanager
def _worker(limit: int) -> Generator[None]:
    command = (
        *(sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL),
        *("--name", f"terminal-{os.getpid()}", "--limit", str(limit)),
    )
    with (
        (home() / "fleet.log").open("ab") as output,
        subprocess.Popen(
            [sys.executable, "-m", "prefect_linkerd.server.lifeline", *command],
            env=os.environ
            | {
                "PREFECT_WORKER_QUERY_SECONDS": "1",
                # Do not import modules from the working directory.
                "PYTHONSAFEPATH": "1",
            },
            # Closes when this process ends in any way; the worker then stops its runs.
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches only this process, which stops the worker.
            start_new_session=True,
        ),
    ):
        yield
