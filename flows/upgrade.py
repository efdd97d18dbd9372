"""Upgrade a mesh to a newer Linkerd, or roll back to the one that it had."""

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
from prefect_linkerd.mesh.probe.options import ProbeOptions
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.records.rotation import RotationClaim
from prefect_linkerd.mesh.records.upgrade import UpgradeRecord
from prefect_linkerd.mesh.report.report import Report
from prefect_linkerd.mesh.upgrade.plan import UpgradePlan, require_plan
from prefect_linkerd.tasks.admission import await_approval, declined, postponed
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.gate import verify
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.outside import Ending, completed
from prefect_linkerd.tasks.probe import ask_probe, probing
from prefect_linkerd.tasks.releases import release
from prefect_linkerd.tasks.rotation import claim_of
from prefect_linkerd.tasks.step import submit
from prefect_linkerd.tasks.upgrade import (
    Planned,
    arrived,
    begin_record,
    choose_target,
    end_record,
    finish_split,
    keep_crds,
    keep_version,
    mend_namespaces,
    move_data_plane,
    plan,
    roll_back,
    soak,
    split_chart,
    turn_back,
    uninstall,
    went_back,
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
) -> UpgradePlan | Ending:
    """Upgrade a mesh to a newer Linkerd, and roll back when a gate fails.

    Run again after an interruption, it resumes where the cluster says that it was, in the same
    direction.

    Args:
        mesh: Which mesh, and its upgrade policy.
        to: The Linkerd version, such as edge-26.8.3. Empty: the newest that the policy wants.
        dry_run: Stops after the plan, and changes nothing.
        accept: Ids of the plan's findings that a person has looked at and accepts; `window` goes
            ahead outside the maintenance window.
        go_back: Gives an interrupted upgrade up, and goes back.
        restarts: How fast, and in which order, the data plane is restarted, and by how much success
            rates may drop.
        probe: Requests of its own meanwhile, and how many may fail before it goes back.

    Raises:
        MeshError: the object, what was expected, what was found and how to fix it.
        UpgradeUndone: a gate failed, and the mesh is at its former version again.
    """
    if reason := declined(mesh):
        return completed(name="Skipped", message=reason)
    target = choose_target(mesh, to or None)
    planned = plan(mesh, target, frozenset(accept))
    if dry_run:
        return planned.plan
    if planned.plan.is_done:
        keep_version(planned.after)
        return planned.plan

    if planned.record is None:
        require_plan(planned.plan)
        if "window" not in accept and postponed(mesh, planned.plan):
            return planned.plan
        await_approval(mesh, planned.plan)
    with claim_of(mesh, mesh.upgrade) as claim:
        if planned.record is None:
            verify(planned.before)
        is_back = go_back or (planned.record is not None and planned.record.direction == "back")
        with probing(planned.before, probe, tolerant=is_back) as requests:
            return _upgrade(mesh, planned, claim, restarts, requests, go_back=go_back)


def _upgrade(
    mesh: LinkerdMesh,
    planned: Planned,
    claim: RotationClaim,
    restarts: RestartPolicy,
    probe: Probe,
    *,
    go_back: bool,
) -> UpgradePlan:
    """There, or back, with the right to change the mesh."""
    record = begin_record(mesh, planned)
    if go_back:
        record = turn_back(mesh, record, "a person said so")

    if record.direction == "forward":
        try:
            verified = _go(planned, record, claim, restarts, probe)
        except (
            MeshUnhealthy,
            NotReady,
            ReleaseError,
            RequestsFailed,
            TrafficDropped,
        ) as failure:
            if isinstance(failure, ReleaseError) and failure.transient:
                raise
            record = turn_back(mesh, record, str(failure))
        else:
            arrived(planned, record, verified, probe.outcome)
            end_record(mesh, planned.plan)
            return planned.plan

    probe.only_count()
    verified = _return(planned, record, claim, restarts, probe)
    went_back(planned, record, verified, probe.outcome)
    end_record(mesh)
    raise UpgradeUndone(
        f"mesh {mesh.name}",
        expected=f"to be upgraded to {record.target}",
        found=record.reason,
        remedy=f"It is at {record.source} again and works. Fix this, then run upgrade again.",
    )


def _go(
    planned: Planned,
    record: UpgradeRecord,
    claim: RotationClaim,
    restarts: RestartPolicy,
    probe: Probe,
) -> Report:
    """Forward: CRDs, control plane, extensions, data plane, and the proof."""
    mesh, charts, facts = planned.after, planned.charts, planned.facts
    mend_namespaces(mesh)
    for name in mesh.upgrade.dependencies:
        if name in charts:
            release(mesh, charts[name], facts)

    if planned.plan.splits:
        split_chart(mesh, planned)
    if "linkerd-crds" in charts:
        keep_crds(mesh, planned)
        release(mesh, charts["linkerd-crds"], facts)
    control_plane = charts[release_facts(mesh.linkerd).control_plane_chart]
    claim.check()
    release(mesh, control_plane, facts, planned.bundle)

    for gone in planned.plan.steps:
        if gone.action == "uninstall":
            uninstall(mesh, gone.name)
    extensions = [
        submit(release, mesh, charts[name], facts, planned.bundle)
        for name in EXTENSION_CHARTS
        if name in charts
    ]
    for extension in extensions:
        extension.result()

    soak(mesh, record)
    if probe.asks:
        ask_probe(probe, "control plane")
    claim.check()
    move_data_plane(mesh, restarts, probe, is_way_back=False)
    verified = verify(mesh, patience=mesh.upgrade.settle_seconds)
    if probe.asks:
        ask_probe(probe, "verified")
    if planned.plan.splits:
        finish_split(mesh, planned, record)
    return verified


def _return(
    planned: Planned,
    record: UpgradeRecord,
    claim: RotationClaim,
    restarts: RestartPolicy,
    probe: Probe,
) -> Report:
    """Back: every release at its recorded revision, the proxies with them, and the proof."""
    mesh = planned.before
    # Until 2.11 the extensions' pods are injected by what their namespace says.
    mend_namespaces(mesh)
    claim.check()
    roll_back(mesh, record)
    claim.check()
    move_data_plane(mesh, restarts, probe, is_way_back=True)
    return verify(mesh, patience=mesh.upgrade.settle_seconds)
