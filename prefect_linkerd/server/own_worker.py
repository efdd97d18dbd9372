"""A worker for a fleet from a terminal: each mesh's run in a process of its own, on this machine.

The flow takes names of blocks and a deployment; here both are made on the fleet's own server.
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
"""Without a step Prefect copies the whole folder that the command was given in, for every run."""
COMMAND = shlex.join([sys.executable, "-m", "prefect.engine"])
"""By default Prefect's worker has three processes for a run, each of which imports Prefect.

Two of them fetch the run's code, which is installed here.
"""


@contextmanager
def prepared(meshes: Mapping[str, MeshConfig], flow_name: str, at_once: int) -> Generator[None]:
    """The fleet's blocks and deployment on the server of this process, and a worker for its runs.

    Args:
        meshes: by name; a block of an earlier fleet is updated.
        flow_name: what is run for each.
        at_once: how many runs the worker has at the same time; 0 for a plan, which needs none.

    Raises:
        InvalidInput: another fleet runs at a terminal of this user.
    """
    with _alone(), _worker_for(meshes, flow_name, at_once):
        yield


@contextmanager
def _alone() -> Generator[None]:
    """One fleet at a time: its worker would have the runs of another."""
    lock = FileLock(home() / "fleet.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InvalidInput(
            "fleet",
            expected="no other fleet run from a terminal of this user",
            found="one that runs",
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
        _crash_the_dead(client)
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


def _crash_the_dead(client: SyncPrefectClient) -> None:
    """Ends what a lost machine has left as running: here is one worker at a time, and none yet."""
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
                # What is in the folder that the command was given in is none of our modules.
                "PYTHONSAFEPATH": "1",
            },
            # It closes with this process, however that ends; the worker then ends its runs.
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C is for this process, which ends the worker.
            start_new_session=True,
        ),
    ):
        yield
