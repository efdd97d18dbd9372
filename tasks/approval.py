"""Waits for approval before a run changes anything."""

from __future__ import annotations

from prefect_linkerd.mesh.errors import NotApproved
from prefect_linkerd.tasks.outside import get_run_logger, outside


def await_approval(what: str, hours: float, *, plan: str = "") -> None:
    """Pauses the run until it is approved.

    Args:
        what: what would be done, such as `uninstall of mesh m`.
        hours: how long to wait for an answer.
        plan: key of the artifact with the plan; if given, the plan can also be rejected.

    Raises:
        NotApproved: it is rejected, or the approval times out.
    """
    get_run_logger().info("Waiting for approval of %s", what)
    is_approved = outside().approve(what, hours, plan)
    if not is_approved:
        raise NotApproved(
            what,
            expected=f"approval within {hours:g} hours",
            found="no answer" if is_approved is None else "that it was rejected",
            remedy="Nothing was changed since. Run the flow again, and approve it.",
        )
