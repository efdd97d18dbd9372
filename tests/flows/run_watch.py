"""A watcher's machine: subscribes a mesh, checks repositories, and executes the resulting runs.

    python -m tests.flows.run_watch < LINES

Each line of standard input is a JSON request; the answer is a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.runner import Runner

from prefect_linkerd.deployments.upgrades import subscription
from prefect_linkerd.flows.upgrade import upgrade
from prefect_linkerd.flows.watch_charts import watch_charts
from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.tasks.chart_releases import find_repositories
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh

state: dict[str, Any] = {}


async def save(config: dict[str, Any]) -> UUID:
    """Saves the mesh as a block, and returns the block's id."""
    mesh = LinkerdMesh.model_validate(config)
    return await mesh.asave(mesh.name, overwrite=True)


async def setup(config: dict[str, Any]) -> dict[str, Any]:
    """Saves the mesh, deploys the upgrade, and subscribes the mesh."""
    mesh = LinkerdMesh.model_validate(config)
    block = await save(config)
    state["runner"] = Runner(name="watch")
    state["deployment"] = await state["runner"].aadd_flow(upgrade, name="upgrade")
    await subscription(mesh, block, state["deployment"]).acreate()
    async with get_client() as client:
        return {"automations": [a.name for a in await client.read_automations()]}


async def runs() -> list[dict[str, Any]]:
    """The flow runs of the deployment: parameters and state."""
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[state["deployment"]]))
    async with get_client() as client:
        found = await client.read_flow_runs(flow_run_filter=wanted)
    return [
        {
            "id": str(run.id),
            "parameters": run.parameters,
            "state": run.state.name if run.state else "",
            "message": run.state.message if run.state else "",
        }
        for run in found
    ]


async def execute(run: str) -> dict[str, Any]:
    """Executes a flow run as a served deployment would."""
    command = [sys.executable, "-m", "prefect", "flow-run", "execute", run]
    # Standard output is for answers only.
    ended = await asyncio.create_subprocess_exec(*command, stdout=sys.stderr)
    await ended.wait()
    return next(found for found in await runs() if found["id"] == run)


def look(repositories: list[str], dry_run: bool = False) -> dict[str, Any]:
    try:
        return {"new": watch_charts(repositories, dry_run)}
    except ChartError as error:
        return {"error": str(error)}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        match request.pop("do"):
            case "setup":
                answer: Any = asyncio.run(setup(**request))
            case "save":
                answer = str(asyncio.run(save(**request)))
            case "repositories":
                answer = find_repositories.fn()
            case "look":
                answer = look(**request)
            case "execute":
                answer = asyncio.run(execute(**request))
            case _:
                answer = asyncio.run(runs())
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
