"""Whether an upgrade may begin: who started it, its maintenance window, and approval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect_linkerd.mesh.errors import InvalidInput, NotApproved
from prefect_linkerd.mesh.upgrade.plan import UpgradePlan
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import get_run_logger, outside
from prefect_linkerd.tasks.step import step

CLOCKS_DIFFER = timedelta(seconds=30)


def declined(mesh: LinkerdMesh) -> str:
    """Why nothing is done where an automation started this run and the policy has that off.

    The automation outlives a change of the block until `prefect deploy --all` removes it.
    """
    automation = outside().automation
    if mesh.upgrade.automatic != "off" or automation is None:
        return ""
    return (
        f"automation {automation!r} started this run, but upgrade.automatic of mesh "
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
    if not outside().run_at(opening, f"{mesh.name} to {plan.target} at {opening.isoformat()}"):
        raise InvalidInput(
            f"upgrade of mesh {mesh.name}",
            expected=f"the maintenance window {window.cron} ({window.timezone}), "
            f"{window.duration_minutes} minutes each",
            found=f"that it opens at {opening:%Y-%m-%d %H:%M} UTC",
            remedy="Run a deployment, which waits for the window, or accept `window`.",
        )
    get_run_logger().warning("The maintenance window is shut: put off until %s", opening)
    return True


def await_approval(mesh: LinkerdMesh, plan: UpgradePlan) -> None:
    """Pauses the flow run until a person has looked at the plan, where the policy says so.

    Raises:
        NotApproved: the person says no, or nobody says anything in time.
    """
    if not mesh.upgrade.needs_approval:
        return
    is_approved = outside().approve_plan(
        f"the upgrade of mesh {mesh.name} from {plan.source} to {plan.target}",
        mesh_key(mesh.name, "upgrade-plan"),
        mesh.upgrade.approval_hours,
    )
    if not is_approved:
        raise NotApproved(
            f"upgrade of mesh {mesh.name} to {plan.target}",
            expected=f"to be approved within {mesh.upgrade.approval_hours} hours",
            found="no answer" if is_approved is None else "that it was not",
            remedy="Nothing was changed. Run upgrade again to ask again.",
        )
