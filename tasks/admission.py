"""Whether an upgrade may begin: who started it, its maintenance window, and approval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.states import Scheduled
from pydantic import Field

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.upgrade.plan import UpgradePlan
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.step import step

CLOCKS_DIFFER = timedelta(seconds=30)


class Approval(RunInput):
    """What a person says to a plan."""

    approved: bool = Field(
        default=False,
        title="Approved",
        description="Whether the upgrade may begin. The plan is an artifact of this run.",
    )


def declined(mesh: LinkerdMesh) -> str:
    """Why nothing is done where an automation started this run and the policy has that off.

    The automation outlives a change of the block until `prefect deploy --all` removes it.
    """
    context = FlowRunContext.get()
    creator = context.flow_run.created_by if context and context.flow_run else None
    if mesh.upgrade.automatic != "off" or creator is None or creator.type != "AUTOMATION":
        return ""
    return (
        f"automation {creator.display_value!r} started this run, but upgrade.automatic of mesh "
        f"{mesh.name} is off; nothing was changed"
    )


@step("window", description="Whether the maintenance window is open; else a run when it opens.")
def postponed(mesh: LinkerdMesh, plan: UpgradePlan) -> bool:
    """Whether the upgrade was put off to the next window, as a scheduled run of the deployment.

    Raises:
        InvalidInput: the window is shut, and this run has no deployment that could run later.
    """
    # This machine's clock may be a little behind that of the server, which starts the run.
    window, now = mesh.upgrade.window, datetime.now(UTC) + CLOCKS_DIFFER
    if window is None or (opening := window.opening(now)) <= now:
        return False
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.deployment_id is None:
        raise InvalidInput(
            f"upgrade of mesh {mesh.name}",
            expected=f"the maintenance window {window.cron} ({window.timezone}), "
            f"{window.duration_minutes} minutes each",
            found=f"that it opens at {opening:%Y-%m-%d %H:%M} UTC",
            remedy="Run a deployment, which waits for the window, or accept `window`.",
        )
    key = f"{mesh.name} to {plan.target} at {opening.isoformat()}"
    if run.idempotency_key == key:
        # It was put off to this opening, and somebody started it before.
        key = f"{key}, not {run.id}"
    with get_client(sync_client=True) as client:
        client.create_flow_run_from_deployment(
            run.deployment_id,
            # As they were given: a block by its reference, so that no secret is copied.
            parameters=client.read_flow_run(run.id).parameters,
            state=Scheduled(scheduled_time=opening),
            idempotency_key=key,
        )
    get_run_logger().warning("The maintenance window is shut: put off until %s", opening)
    return True


def await_approval(mesh: LinkerdMesh, plan: UpgradePlan) -> None:
    """Pauses the flow run until a person has looked at the plan, where the policy says so.

    Raises:
        InvalidInput: the person says no, or nobody says anything in time.
    """
    if not mesh.upgrade.needs_approval:
        return
    text = (
        f"Mesh **{mesh.name}**: upgrade from {plan.source} to {plan.target}? "
        f"See the artifact `{mesh_key(mesh.name, 'upgrade-plan')}`."
    )
    try:
        answer = pause_flow_run(
            wait_for_input=Approval.with_initial_data(description=text),
            timeout=int(mesh.upgrade.approval_hours * 3600),
        )
    except FlowPauseTimeout:
        answer = None
    if answer is None or not answer.approved:
        raise InvalidInput(
            f"upgrade of mesh {mesh.name} to {plan.target}",
            expected=f"to be approved within {mesh.upgrade.approval_hours} hours",
            found="that it was not" if answer else "no answer",
            remedy="Nothing was changed. Run upgrade again to ask again.",
        )
