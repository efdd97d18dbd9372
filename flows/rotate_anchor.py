"""Replaces the trust anchor of a running mesh, with no failed request."""

from __future__ import annotations

from prefect_linkerd.mesh.errors import NotReady
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.rotation.options import FlowAction, NewAnchor, RotationOptions, dry_action
from prefect_linkerd.mesh.rotation.plan import RotationPlan
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect
from prefect_linkerd.tasks.probe import probing
from prefect_linkerd.tasks.rotation import (
    advance,
    approve,
    begin,
    claimed_rotation,
    finish,
    plan_rotation,
    upcoming,
    was_done_meanwhile,
)

MADE_HERE = NewAnchor()
DEFAULTS = RotationOptions()
DOWNTIME = "a recovery has downtime"
STEPS = 12
"""Maximum number of phases in one run: pods that come and go may require a phase again."""


@flow(
    run_name="{action} anchor of {mesh.name}",
    changes=True,
    page="rotate-anchor.md",
    command="rotate-anchor",
    grants="rotate_anchor",
    fleet=True,
    key="kept",
)
def rotate_anchor(
    mesh: LinkerdMesh,
    action: FlowAction = "rotate",
    new_anchor: NewAnchor = MADE_HERE,
    options: RotationOptions = DEFAULTS,
    dry_run: bool = False,
) -> RotationRecord | RotationPlan:
    """Replace the trust anchor and the issuer of a running mesh, with no failed request.

    Each phase is verified before the next one begins. The run may be stopped or killed at any
    point: run it again, from any machine, and it resumes from the state of the cluster. Throughout,
    old and new meshed test pods send each other requests: if some fail, the rotation stops before
    the next batch of restarts.

    Args:
        mesh: Which mesh.
        action: rotate also resumes a rotation. abort: go back to the old anchor. recover: repair a
            mesh whose certificates have expired, with downtime. drop: restart what still trusts the
            old anchor after a gentle rotation.
        new_anchor: The new trust anchor; created by the flow if none is provided.
        options: The pace of restarts, approvals, the probe, and what is allowed.
        dry_run: Stop after the plan of a rotation, and change nothing.

    Raises:
        MeshError: the object, what was expected, what was found and how to fix it.

    Example:
        >>> mesh = LinkerdMesh.load("production")
        >>> rotate_anchor(mesh, options=RotationOptions(approvals=("switch",))).phase
        'done'
    """
    live = connect(mesh)
    if dry_run:
        return plan_rotation(live, new_anchor, options, dry_action(action))
    plan = plan_rotation(live, new_anchor, options, action)
    with claimed_rotation(live, options) as rotation:
        if was_done_meanwhile(rotation, plan):
            return rotation.record
        with probing(live, options.probe, absent=DOWNTIME if action == "recover" else "") as probe:
            rotation.probe = probe
            begin(rotation, new_anchor, action)
            for _ in range(STEPS):
                phase = upcoming(rotation, action)
                if phase == "done":
                    return finish(live, rotation, plan)
                approve(phase, options)
                advance(live, rotation, phase, action)
        raise NotReady(
            f"mesh {mesh.name}",
            expected=f"its rotation to complete within {STEPS} phases",
            found="that earlier phases had to be repeated again and again",
            remedy="See which pods keep coming up with the old trust bundle, then run again.",
        )
