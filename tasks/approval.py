"""Waiting for somebody's approval before a run changes anything."""

from __future__ import annotations

from prefect_linkerd.mesh.errors import NotApproved
from prefect_linkerd.tasks.outside import get_run_logger, outside


def await_approval(what: str, hours: float, *, plan: str = "") -> None:
    """Pauses the run until somebody approves.

    Args:
        what: what would be done, such as `uninstall of mesh m`.
        hours: how long an answer may take.
        plan: key of the artifact that shows the plan; with it a person can also reject.

    Raises:
        NotApproved: somebody rejects it, or nobody answers in time.
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
