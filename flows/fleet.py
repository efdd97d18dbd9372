"""Runs one deployment for many meshes, wave by wave."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from prefect_linkerd.mesh.errors import FleetStopped, InvalidInput
from prefect_linkerd.mesh.fleet import FleetOptions, FleetPlan, MeshOutcome
from prefect_linkerd.tasks.fleet import (
    Round,
    failures,
    find_started_runs,
    plan_waves,
    poll,
    publish,
    start,
)
from prefect_linkerd.tasks.fleet_flows import FleetFlow
from prefect_linkerd.tasks.flow import flow

EVERY_MESH: list[str] = []
NOTHING: dict[str, Any] = {}
DEFAULTS = FleetOptions()
PAUSE = 2.0
"""Seconds between two polls of the runs; one request polls all of them."""


@flow(
    run_name="{deployment} of the fleet",
    changes=True,
    page="operations.md#fleets",
    command="fleet",
    needs_server=True,
)
def fleet(
    meshes: list[str] = EVERY_MESH,
    deployment: FleetFlow = "verify_mesh",
    parameters: dict[str, Any] = NOTHING,
    options: FleetOptions = DEFAULTS,
    round_name: str = "",
    dry_run: bool = False,
) -> FleetPlan | State[Any]:
    """Run one of the other flows for many meshes: the canaries first, then the rest, until too
    many fail.

    Each mesh gets a run of its own, on any worker. If the fleet's run is killed, run it again (or
    start another one with the same `round_name`): it waits for the runs already started, starts
    none twice, and retries only those that failed.

    Args:
        meshes: The names of Linkerd Mesh blocks. Empty: every saved block.
        deployment: The deployment to run for each mesh.
        parameters: The deployment's other parameters, the same for each mesh.
        options: The order and pace, and when to stop.
        round_name: A name for this round of the fleet, such as a date. A run with the name of a
            stopped round resumes it. Empty: a new round.
        dry_run: Only show the waves.

    Raises:
        InvalidInput: a mesh or the deployment does not exist; nothing was started.
        FleetStopped: too many meshes failed, or a canary did.

    Example:
        >>> fleet(["north", "south"], "upgrade", {"to": "edge-26.8.3"}, round_name="26.8.3")
    """
    if "mesh" in parameters:
        raise InvalidInput(
            "parameters",
            expected="only those that are the same for every mesh",
            found="mesh",
            remedy="Name the meshes in the parameter meshes.",
        )
    waves = plan_waves(deployment, meshes, options)
    publish(waves, deployment, {}, {})
    if dry_run:
        return waves

    round_ = Round(deployment, parameters, round_name or str(flow_run.id))
    limit = timedelta(minutes=options.minutes)
    turns = find_started_runs(waves, round_)
    outcomes: dict[str, MeshOutcome] = {mesh: turn.outcome(limit) for mesh, turn in turns.items()}
    again = [mesh for mesh, outcome in outcomes.items() if outcome == "failed"]
    outcomes |= dict.fromkeys(again, "waiting")

    while (starting := waves.upcoming(outcomes)) or "running" in outcomes.values():
        for mesh in starting:
            turns[mesh] = start(mesh, round_, turns[mesh].attempt + 1 if mesh in again else 0)
            outcomes[mesh] = "running"
        time.sleep(PAUSE)
        poll(turns)
        outcomes |= {
            mesh: turns[mesh].outcome(limit)
            for mesh, outcome in outcomes.items()
            if outcome == "running"
        }

    publish(waves, deployment, turns, outcomes)
    failed = failures(outcomes, turns)
    done = list(outcomes.values()).count("succeeded")
    found = f"{done} of {len(waves.meshes)} meshes succeeded"
    if failed:
        found += f"; failed: {', '.join(failed)}"
    if waves.is_stopped(outcomes):
        raise FleetStopped(
            f"{deployment} of the fleet",
            expected=f"at most {options.max_failures} meshes to fail, and no canary",
            found=found,
            remedy="Look at their runs; then run the fleet again with the same round_name.",
        )
    return Completed(name="Degraded" if failed else None, message=found, data=outcomes)
