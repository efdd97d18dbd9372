"""Runs of one deployment for many meshes: finds earlier ones, starts, polls and shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from prefect import get_client
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterIdempotencyKey,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import TagsContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.fleet import FleetOptions, FleetPlan, MeshOutcome, plan_fleet
from prefect_linkerd.tasks.linkerd_mesh import reference
from prefect_linkerd.tasks.names import deployment_name, full_name
from prefect_linkerd.tasks.step import step

PAGE = 200


@dataclass(frozen=True)
class Round:
    """One run of a deployment for each mesh. A fleet run with the same key resumes the round."""

    deployment: str
    parameters: Mapping[str, Any]
    key: str

    def key_of(self, mesh: str, attempt: int) -> str:
        """The idempotency key of a mesh's run: the server creates at most one run for each key."""
        return f"fleet {self.key} {self.deployment} {mesh} {attempt}"


@dataclass
class Turn:
    """A mesh's run as last polled; earlier attempts failed in an earlier fleet run."""

    attempt: int
    run: FlowRun

    @property
    def state(self) -> State[Any]:
        # Runs from the server always have a state.
        return cast("State[Any]", self.run.state)

    def outcome(self, limit: timedelta) -> MeshOutcome:
        if self.state.is_completed():
            return "succeeded"
        if self.state.is_final():
            return "failed"
        created = self.run.created or datetime.now(UTC)
        return "failed" if datetime.now(UTC) - created > limit else "running"


@step("plan fleet", description="Divides the fleet's meshes into waves.")
def plan_waves(deployment: str, meshes: list[str], options: FleetOptions) -> FleetPlan:
    """The waves of the saved meshes.

    Raises:
        InvalidInput: a mesh is not saved, or the deployment does not exist.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(full_name(deployment))
        except ObjectNotFound:
            raise InvalidInput(
                f"deployment {full_name(deployment)}",
                expected="to exist on this Prefect server",
                found="that it does not",
                remedy="Run prefect deploy --all.",
            ) from None
        saved: list[str] = []
        while True:
            answer = client.request(
                "POST",
                "/block_documents/filter",
                json={
                    "block_types": {"slug": {"any_": ["linkerd-mesh"]}},
                    "offset": len(saved),
                    "limit": PAGE,
                },
            )
            page: list[dict[str, Any]] = answer.json()
            saved += [document["name"] for document in page if document["name"]]
            if len(page) < PAGE:
                return plan_fleet(saved, meshes, options)


def find_started_runs(plan: FleetPlan, round_: Round) -> dict[str, Turn]:
    """Each mesh's latest run that an earlier fleet run of the same round started."""
    turns: dict[str, Turn] = {}
    attempt = 0
    while True:
        keys = {round_.key_of(mesh, attempt): mesh for mesh in plan.meshes}
        wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=list(keys)))
        if not (found := _runs(wanted)):
            return turns
        turns |= {keys[run.idempotency_key or ""]: Turn(attempt, run) for run in found}
        attempt += 1


def start(mesh: str, round_: Round, attempt: int) -> Turn:
    """Starts a mesh's run, or returns the one that was already started."""
    run = run_deployment(
        full_name(round_.deployment),
        parameters={**round_.parameters, "mesh": reference(mesh)},
        timeout=0,
        # A terminal answers the approvals of the runs that it started, which it finds by tag.
        tags=sorted(TagsContext.get().current_tags),
        idempotency_key=round_.key_of(mesh, attempt),
    )
    return Turn(attempt, cast("FlowRun", run))


def poll(turns: Mapping[str, Turn]) -> None:
    """Updates every turn whose run was not in a final state."""
    by_id: dict[UUID, Turn] = {t.run.id: t for t in turns.values() if not t.state.is_final()}
    if by_id:
        for run in _runs(FlowRunFilter(id=FlowRunFilterId(any_=list(by_id)))):
            by_id[run.id].run = run


def _runs(wanted: FlowRunFilter) -> list[FlowRun]:
    found: list[FlowRun] = []
    with get_client(sync_client=True) as client:
        while True:
            page = client.read_flow_runs(flow_run_filter=wanted, offset=len(found), limit=PAGE)
            found += page
            if len(page) < PAGE:
                return found


def publish(
    plan: FleetPlan, deployment: str, turns: Mapping[str, Turn], outcomes: Mapping[str, MeshOutcome]
) -> None:
    """Publishes each mesh's wave and outcome as a table artifact.

    The description holds the messages of the failed runs.
    """
    words = [f"{deployment} of {len(plan.meshes)} meshes"]
    # Not in the table, because Prefect's UI does not wrap lines there.
    words += [
        f"- **{mesh}**: {turns[mesh].state.message or turns[mesh].state.name}"[:500]
        for mesh, outcome in outcomes.items()
        if outcome == "failed"
    ]
    create_table_artifact(
        [
            _row(number, mesh, turns.get(mesh), outcomes.get(mesh, "waiting"))
            for number, wave in enumerate(plan.waves, start=1)
            for mesh in wave
        ],
        key=f"{deployment_name('fleet')}-{deployment.replace('_', '-')}",
        description="\n".join((words[0], "", *words[1:])).strip(),
    )


def _row(number: int, mesh: str, turn: Turn | None, outcome: MeshOutcome) -> dict[str, Any]:
    row: dict[str, Any] = {"wave": number, "mesh": mesh, "outcome": outcome}
    if turn is None:
        return {**row, "state": "", "seconds": ""}
    seconds = f"{turn.run.total_run_time.total_seconds():.1f}"
    return {**row, "state": turn.state.name or "", "seconds": seconds}


def failures(outcomes: Mapping[str, MeshOutcome], turns: Mapping[str, Turn]) -> list[str]:
    """The failed meshes, each with its run's state."""
    return [f"{m} ({turns[m].state.name})" for m, o in outcomes.items() if o == "failed"]
