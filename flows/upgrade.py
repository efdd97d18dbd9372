"""Upgrade a mesh to a newer Linkerd, or roll back to its former version."""

from prefect_linkerd.mesh.config.restart_policy import RestartPolicy
from prefect_linkerd.mesh.errors import (
    MeshUnhealthy,
    NotReady,
    ReleaseError,
    RequestsFailed,
    TrafficDropped,
    UpgradeUndone,
)
from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS, release_facts
from prefect_linkerd.mesh.planning.plan import require_acceptable
from prefect_linkerd.mesh.probe.options import ProbeOptions
from prefect_linkerd.mesh.report.report import Report
from prefect_linkerd.mesh.upgrade.going_back import BackPlan
from prefect_linkerd.mesh.upgrade.plan import UpgradePlan, require_plan
from prefect_linkerd.mesh.upgrade.run import Upgrade
from prefect_linkerd.tasks.admission import approve_upgrade, declined, postponed
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.gate import verify
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect
from prefect_linkerd.tasks.outside import Ending, completed
from prefect_linkerd.tasks.probe import ask_probe, probing
from prefect_linkerd.tasks.releases import release
from prefect_linkerd.tasks.rotation import claim_of
from prefect_linkerd.tasks.step import submit
from prefect_linkerd.tasks.upgrade import (
    begin,
    begin_going_back,
    choose_target,
    end,
    finish_split,
    fix_namespaces,
    keep_crds,
    keep_version,
    move_data_plane,
    plan,
    plan_going_back,
    record_rollback,
    report_rolled_back,
    report_upgraded,
    roll_back,
    soak,
    split_chart,
    uninstall,
)

DEFAULTS = RestartPolicy()
PROBE = ProbeOptions()
NOTHING: list[str] = []


@flow(
    run_name="upgrade {mesh.name} {to}",
    changes=True,
    page="upgrade.md",
    command="upgrade",
    grants="upgrade",
    fleet=True,
)
def upgrade(
    mesh: LinkerdMesh,
    to: str = "",
    dry_run: bool = False,
    accept: list[str] = NOTHING,
    go_back: bool = False,
    restarts: RestartPolicy = DEFAULTS,
    probe: ProbeOptions = PROBE,
) -> UpgradePlan | BackPlan | Ending:
    """Upgrade a mesh to a newer Linkerd, and roll back when a gate fails.

    After an interruption, run it again: it resumes from the state of the cluster, in the same
    direction.

    Args:
        mesh: Which mesh, and its upgrade policy.
        to: The Linkerd version, such as edge-26.8.3. Empty: the newest that the policy allows.
        dry_run: Stop after the plan, and change nothing.
        accept: Ids of the plan's findings that you have reviewed and accept; `window` allows a run
            outside the maintenance window.
        go_back: Roll back: abandon an interrupted upgrade, or undo a completed one if Helm still
            has the former revisions.
        restarts: How fast and in which order the data plane is restarted, and how far success
            rates may drop.
        probe: Test requests during the upgrade, and how many may fail before it rolls back.

    Raises:
        MeshError: the object, what was expected, what was found and how to fix it.
        UpgradeUndone: a gate failed, and the mesh is at its former version again.

    Example:
        >>> plan = upgrade(LinkerdMesh.load("production"), to="edge-26.8.3", dry_run=True)
        >>> str(plan.target)
        'edge-26.8.3'
    """
    if reason := declined(mesh):
        return completed(name="Skipped", message=reason)
    live = connect(mesh)
    if go_back and (back := plan_going_back(live, frozenset(accept))) is not None:
        if dry_run:
            return back
        require_acceptable(back.findings, f"rollback of mesh {mesh.name}")
        with claim_of(live, mesh.upgrade):
            begin_going_back(live, back)
    target = choose_target(live, to or None)
    planned = plan(live, target, frozenset(accept))
    if dry_run:
        return planned.plan
    if planned.plan.is_done:
        keep_version(planned.after)
        return planned.plan

    if planned.record is None:
        require_plan(planned.plan)
        if "window" not in accept and postponed(mesh, planned.plan):
            return planned.plan
        approve_upgrade(mesh, planned.plan)
    with claim_of(live, mesh.upgrade) as claim:
        if planned.record is None:
            verify(planned.before)
        is_back = go_back or (planned.record is not None and planned.record.direction == "back")
        with probing(planned.before, probe, tolerant=is_back) as requests:
            return _upgrade(Upgrade(planned, claim, restarts, requests), go_back=go_back)


def _upgrade(upgrade: Upgrade, *, go_back: bool) -> UpgradePlan | Ending:
    """Upgrades the mesh or rolls it back, while holding the claim to it."""
    begin(upgrade)
    if go_back and not upgrade.is_going_back:
        record_rollback(upgrade, "a rollback was requested")

    if not upgrade.is_going_back:
        try:
            verified = _apply(upgrade)
        except (
            MeshUnhealthy,
            NotReady,
            ReleaseError,
            RequestsFailed,
            TrafficDropped,
        ) as failure:
            if isinstance(failure, ReleaseError) and failure.transient:
                raise
            record_rollback(upgrade, str(failure))
        else:
            report_upgraded(upgrade, verified)
            end(upgrade)
            return upgrade.plan

    upgrade.probe.only_count()
    verified = _roll_back(upgrade)
    report_rolled_back(upgrade, verified)
    end(upgrade)
    record = upgrade.record
    if record.was_completed:
        keep_version(upgrade.before)
        message = f"mesh {upgrade.before.name} is at {record.source} again"
        return completed(name="WentBack", message=message)
    raise UpgradeUndone(
        f"mesh {upgrade.before.name}",
        expected=f"to be upgraded to {record.target}",
        found=record.reason,
        remedy=f"It is at {record.source} again and works. Fix the cause, then run upgrade again.",
    )


def _apply(upgrade: Upgrade) -> Report:
    """Upgrades CRDs, control plane, extensions and data plane, then verifies the mesh."""
    mesh, charts, facts = upgrade.after, upgrade.charts, upgrade.facts
    fix_namespaces(upgrade)
    for name in mesh.config.upgrade.dependencies:
        if name in charts:
            release(mesh, charts[name], facts)

    if upgrade.plan.splits:
        split_chart(upgrade)
    if "linkerd-crds" in charts:
        keep_crds(upgrade)
        release(mesh, charts["linkerd-crds"], facts)
    control_plane = charts[release_facts(mesh.config.linkerd).control_plane_chart]
    upgrade.claim.check()
    release(mesh, control_plane, facts, upgrade.trust_bundle)

    for gone in upgrade.plan.steps:
        if gone.action == "uninstall":
            uninstall(upgrade, gone.name)
    extensions = [
        submit(release, mesh, charts[name], facts, upgrade.trust_bundle)
        for name in EXTENSION_CHARTS
        if name in charts
    ]
    for extension in extensions:
        extension.result()

    soak(upgrade)
    if upgrade.probe.asks:
        ask_probe(upgrade.probe, "control plane")
    move_data_plane(upgrade)
    verified = verify(mesh, patience=mesh.config.upgrade.settle_seconds)
    if upgrade.probe.asks:
        ask_probe(upgrade.probe, "verified")
    if upgrade.plan.splits:
        finish_split(upgrade)
    return verified


def _roll_back(upgrade: Upgrade) -> Report:
    """Rolls back every release, then the proxies with them, and verifies the mesh."""
    fix_namespaces(upgrade)
    roll_back(upgrade)
    move_data_plane(upgrade)
    return verify(upgrade.before, patience=upgrade.before.config.upgrade.settle_seconds)
