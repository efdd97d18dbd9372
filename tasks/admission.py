"""Whether an upgrade may start: what started it, its maintenance window, and approval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.upgrade.plan import UpgradePlan
from prefect_linkerd.tasks.approval import await_approval
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import get_run_logger, outside
from prefect_linkerd.tasks.step import step

CLOCKS_DIFFER = timedelta(seconds=30)


def declined(mesh: LinkerdMesh) -> str:
    """Why this run does nothing: an automation started it, but the policy is off. Else empty.

    After the policy is turned off in the block, the automation remains until
    `prefect deploy --all` removes it.
    """
    automation = outside().automation
    if mesh.upgrade.automatic != "off" or automation is None:
        return ""
    return (
        f"automation {automation!r} started this run, but upgrade.automatic of mesh "
        f"{mesh.name} is off; nothing was changed"
    )


@step(
    "window",
    description="Checks the maintenance window; if it is closed, schedules a run for later.",
)
def postponed(mesh: LinkerdMesh, plan: UpgradePlan) -> bool:
    """Whether the upgrade was postponed: the deployment has a run scheduled for the next window.

    Raises:
        InvalidInput: the window is closed, and this run has no deployment to schedule.
    """
    # The server starts the run, and this machine's clock may be slightly behind the server's.
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
    get_run_logger().warning("The maintenance window is closed: postponed until %s", opening)
    return True


def approve_upgrade(mesh: LinkerdMesh, plan: UpgradePlan) -> None:
    """Waits for approval of the plan if the mesh's policy requires it.

    Raises:
        NotApproved: the plan is rejected, or the approval times out.
    """
    if mesh.upgrade.needs_approval:
        await_approval(
            f"the upgrade of mesh {mesh.name} from {plan.source} to {plan.target}",
            mesh.upgrade.approval_hours,
            plan=mesh_key(mesh.name, "upgrade-plan"),
        )
