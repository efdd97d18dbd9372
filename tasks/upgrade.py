"""The steps of an upgrade: its plan and record, the chart split, the data plane, the way back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from prefect_linkerd.mesh.helm.charts import Chart, ChartName
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.installed import mesh_releases
from prefect_linkerd.mesh.helm.records import forget, read_releases
from prefect_linkerd.mesh.helm.values import ClusterFacts, proxy_version
from prefect_linkerd.mesh.install.namespaces import ensure_namespaces
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.kubernetes.rollout import Workload, await_rollouts, read_workloads
from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.planning import chart_split
from prefect_linkerd.mesh.planning.chart_split import CONTROL_PLANE, CRDS, OLD
from prefect_linkerd.mesh.probe.counts import Outcome
from prefect_linkerd.mesh.probe.restarting import restart_beside
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.records.upgrade import (
    RecordedRelease,
    UpgradeRecord,
    another_target,
    begin,
    changed_meanwhile,
    end,
    read_record,
    write_record,
)
from prefect_linkerd.mesh.report.events import Notice
from prefect_linkerd.mesh.report.report import Report
from prefect_linkerd.mesh.restarts import (
    Restarted,
    RestartPolicy,
    read_data_plane,
)
from prefect_linkerd.mesh.traffic.watch import TrafficWatch
from prefect_linkerd.mesh.upgrade.path import newest_hop
from prefect_linkerd.mesh.upgrade.plan import (
    UpgradePlan,
    at_version,
    plan_markdown,
    plan_upgrade,
)
from prefect_linkerd.mesh.upgrade.snapshot import (
    installed_releases,
    is_behind,
    pins_of,
    read_plan,
    read_source,
    trust_bundle,
    versions_for,
)
from prefect_linkerd.mesh.upgrade.way_back import BackStep, way_back
from prefect_linkerd.tasks.events import send
from prefect_linkerd.tasks.injection import mend_injection
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, block_name, cluster_of
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact, get_run_logger
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.step import step
from prefect_linkerd.tasks.traffic import told

SOAK_LOOKS = 10.0
"""Seconds between two looks at a control plane that soaks."""


@dataclass(frozen=True)
class Planned:
    """A plan, and what its steps work with: the mesh before and after, the charts, the facts.

    `revisions` are those of the releases that it was made for.
    """

    plan: UpgradePlan
    before: LinkerdMesh
    after: LinkerdMesh
    charts: dict[ChartName, Chart]
    facts: ClusterFacts
    bundle: str
    revisions: dict[str, int]
    record: UpgradeRecord | None


@step("choose version", description="The version to go to, by name or by the mesh's policy.")
def choose_target(mesh: LinkerdMesh, to: str | None) -> LinkerdVersion:
    """A named one; else that of an upgrade in progress; else the newest that the policy wants.

    Raises:
        InvalidInput: it is no version, or what the policy wants cannot be reached in one step.
        OwnershipConflict: the mesh has no Helm release, but an owner.
    """
    if to is not None:
        return LinkerdVersion.parse(to)
    cluster = cluster_of(mesh)
    record = read_record(cluster, mesh)
    if record is not None:
        return LinkerdVersion.parse(record.target)
    releases = read_releases(cluster)
    installed = installed_releases(cluster, mesh, releases)
    current = read_source(cluster, mesh, releases, installed, None)
    return newest_hop(mesh.upgrade, current, versions_for(mesh, current))


@step("plan", description="What the upgrade would change, and what blocks it.")
def plan(mesh: LinkerdMesh, target: LinkerdVersion, accept: frozenset[str]) -> Planned:
    """Also as a markdown artifact; changes nothing.

    Raises:
        InvalidInput: a downgrade, or a version that skips others.
        OwnershipConflict: an upgrade to another version is in progress.
    """
    cluster = cluster_of(mesh)
    record = read_record(cluster, mesh)
    if record is not None and record.target != str(target):
        raise another_target(mesh, record)
    snapshot = read_plan(cluster, Helm(cluster), mesh, target, record=record, accepted=accept)
    made = plan_upgrade(snapshot)
    create_markdown_artifact(
        plan_markdown(made, snapshot.traffic_splits),
        key=mesh_key(mesh.name, "upgrade-plan"),
        description=f"Mesh {mesh.name}: {made.source} to {made.target}",
    )
    log = get_run_logger()
    for finding in made.findings:
        log.warning("%s: %s", finding.severity, finding)
    return Planned(
        plan=made,
        before=at_version(mesh, snapshot.source),
        after=at_version(mesh, target),
        charts=dict(snapshot.charts),
        facts=snapshot.facts,
        bundle=trust_bundle(cluster, mesh),
        revisions={part: revision.number for part, revision in snapshot.installed.items()},
        record=record,
    )


@step("record", description="Keeps the way back: every release's revision, in one ConfigMap.")
def begin_record(mesh: LinkerdMesh, planned: Planned) -> UpgradeRecord:
    """Called with the right to change the mesh; that of an upgrade that is resumed is there.

    Raises:
        OwnershipConflict: another run has changed the mesh since the plan was made.
    """
    cluster = cluster_of(mesh)
    installed = installed_releases(cluster, mesh, read_releases(cluster))
    now = {part: revision.number for part, revision in installed.items()}
    found = read_record(cluster, mesh)
    is_resumed = planned.record is not None
    if is_resumed != (found is not None) or (not is_resumed and now != planned.revisions):
        raise changed_meanwhile(mesh, planned.revisions, now)
    if found is not None:
        return found
    kept = [
        RecordedRelease(
            name=revision.name,
            namespace=revision.namespace,
            chart=revision.chart,
            chart_version=revision.chart_version,
            revision=revision.number,
            part=part,
        )
        for part, revision in installed.items()
    ]
    return begin(
        cluster,
        mesh,
        UpgradeRecord(
            source=planned.plan.source,
            target=planned.plan.target,
            started=datetime.now(UTC),
            releases=tuple(kept),
        ),
    )


@step("chart split", description="Gives the objects of release linkerd2 to the two new releases.")
def split_chart(mesh: LinkerdMesh, planned: Planned) -> list[str]:
    """The objects whose owner changed; nothing else of them does."""
    cluster = cluster_of(mesh)
    old = installed_releases(cluster, mesh, read_releases(cluster))[OLD]
    split = chart_split.decide_split(old, _crds(cluster, planned), cluster.api_versions())
    moved = chart_split.take_over(cluster, old, split, mesh.namespaces.linkerd, datetime.now(UTC))
    get_run_logger().info("%d objects of %s have new owners", len(moved), old.name)
    return moved


@step("end of the split", description="Deletes the record of release linkerd2.")
def finish_split(mesh: LinkerdMesh, planned: Planned, record: UpgradeRecord) -> None:
    cluster = cluster_of(mesh)
    old = installed_releases(cluster, mesh, read_releases(cluster)).get(OLD)
    if old is not None:
        split = chart_split.decide_split(old, _crds(cluster, planned), cluster.api_versions())
        left = tuple(obj["metadata"]["name"] for obj in split.left)
        # First, as the way back needs it once the old release's record is gone.
        write_record(cluster, mesh, record.model_copy(update={"left_crds": left}))
        chart_split.finish(cluster, old, split)


def _crds(cluster: Cluster, planned: Planned) -> list[str]:
    return [obj["metadata"]["name"] for obj in _rendered_crds(cluster, planned)]


def _rendered_crds(cluster: Cluster, planned: Planned) -> list[Object]:
    chart, namespace = planned.charts[CRDS], planned.after.namespaces.linkerd
    return Helm(cluster).render(chart, CRDS, namespace, {}, planned.facts)


@step("keep CRDs", description="Makes sure that Helm deletes no CRD.")
def keep_crds(mesh: LinkerdMesh, planned: Planned) -> list[str]:
    """The CRDs that the new charts no longer have, and that stay."""
    cluster = cluster_of(mesh)
    if any(step.name == CRDS and step.action == "kept" for step in planned.plan.steps):
        return []
    installed = installed_releases(cluster, mesh, read_releases(cluster))
    objects = [obj for name in (OLD, CRDS) if name in installed for obj in installed[name].manifest]
    return chart_split.keep_crds(cluster, objects, _rendered_crds(cluster, planned))


@step("namespaces", description="The namespaces' labels and annotations, as the version wants.")
def mend_namespaces(mesh: LinkerdMesh) -> list[str]:
    return ensure_namespaces(cluster_of(mesh), mesh)


@step(
    "gone extension", run_name="uninstall {name}", description="Uninstalls, and keeps the history."
)
def uninstall(mesh: LinkerdMesh, name: str) -> None:
    cluster = cluster_of(mesh)
    found = installed_releases(cluster, mesh, read_releases(cluster)).get(name)
    if found is not None:
        Helm(cluster).uninstall(found.name, found.namespace, mesh.timeout_seconds)


@step("soak", description="Lets the new control plane run for a while.")
def soak(mesh: LinkerdMesh, record: UpgradeRecord) -> UpgradeRecord:
    """Counted from when the control plane was ready, also over an interruption.

    Raises:
        NotReady: the control plane fell ill meanwhile, and stayed so.
    """
    cluster = cluster_of(mesh)
    if record.control_plane_since is None:
        record = record.model_copy(update={"control_plane_since": datetime.now(UTC)})
        write_record(cluster, mesh, record)
    since = record.control_plane_since or datetime.now(UTC)
    until = since + timedelta(minutes=mesh.upgrade.soak_minutes)
    get_run_logger().info("The new control plane soaks until %s", until)
    workloads: list[Workload] = [
        (obj["kind"], mesh.namespaces.linkerd, obj["metadata"]["name"])
        for obj in read_workloads(cluster, mesh.namespaces.linkerd)
    ]
    with RolloutProgress(mesh.name, "soak") as progress:
        while True:
            await_rollouts(cluster, workloads, mesh.upgrade.settle_seconds, progress)
            left = (until - datetime.now(UTC)).total_seconds()
            if left <= 0:
                return record
            time.sleep(min(left, SOAK_LOOKS))


@step("data plane", description="Restarts every workload with another proxy, batch by batch.")
def move_data_plane(
    mesh: LinkerdMesh, policy: RestartPolicy, probe: Probe, *, is_way_back: bool
) -> Restarted:
    """Until every proxy is of the mesh's version, save those that have to be restarted manually.

    What keeps its proxies at another version is left alone, and named.

    Args:
        is_way_back: a drop of success rates is shown, and stops nothing: there is no other way.

    Raises:
        TrafficDropped: fewer requests of a workload succeed since its restart.
    """
    cluster, version = cluster_of(mesh), proxy_version(mesh)
    watch = TrafficWatch(
        cluster,
        max_drop=policy.max_success_drop,
        seconds=policy.traffic_seconds,
        stops=not is_way_back,
        remedy="Look at its log and its proxy's, or allow a further drop with the option "
        "restarts.max_success_drop.",
    )
    watch.phase = "way back" if is_way_back else "upgrade"
    with RolloutProgress(mesh.name, "data plane") as progress, told(mesh.name, lambda: watch.rows):
        done = restart_beside(
            probe,
            "data plane",
            cluster,
            lambda: read_data_plane(cluster, mesh.namespaces.linkerd),
            lambda data_plane: is_behind(data_plane, version),
            policy,
            timeout=mesh.timeout_seconds,
            on_progress=progress,
            watch=watch,
        )
    log = get_run_logger()
    for left in done.by_hand:
        log.warning("To be done by a person: %s", left)
    for pin in pins_of(read_data_plane(cluster, mesh.namespaces.linkerd)):
        if pin.version != version:
            log.warning("%s keeps its proxies at %s, and was left alone", pin.subject, pin.version)
    return done


@step("turn back", description="Records that the upgrade goes back, and why.")
def turn_back(mesh: LinkerdMesh, record: UpgradeRecord, reason: str) -> UpgradeRecord:
    get_run_logger().error("The upgrade goes back: %s", reason)
    update = {"direction": "back", "reason": reason[:4000]}
    return write_record(cluster_of(mesh), mesh, record.model_copy(update=update))


@step("way back", description="Rolls every release back to the revision that it had.")
def roll_back(mesh: LinkerdMesh, record: UpgradeRecord) -> list[str]:
    """The releases that were rolled back."""
    cluster = cluster_of(mesh)
    found = mesh_releases(mesh, read_releases(cluster), {}).releases
    present = {part for part, release in found.items() if release.status != "uninstalled"}
    done: list[str] = []
    with RolloutProgress(mesh.name, "way back") as progress:
        for back in way_back(record, present):
            if _go_back(cluster, mesh, record, back, progress):
                done.append(back.part)
    get_run_logger().info("Rolled back: %s", ", ".join(done) or "nothing")
    return done


def _go_back(
    cluster: Cluster,
    mesh: LinkerdMesh,
    record: UpgradeRecord,
    back: BackStep,
    progress: RolloutProgress,
) -> bool:
    """Whether a release was rolled back."""
    helm, namespace, kept = Helm(cluster), mesh.namespaces.linkerd, back.release
    owner = (kept.name, kept.namespace)
    match back.action:
        case "restore":
            now = datetime.now(UTC)
            chart_split.restore(cluster, owner, record.left_crds, namespace, now)
            return False
        case "unsplit":
            helm.roll_back(CONTROL_PLANE, namespace, 1, mesh.timeout_seconds, progress)
            return True
        case "give back":
            chart_split.give_back(cluster, owner, namespace)
            return False
        case "roll back":
            is_done = helm.roll_back(*owner, kept.revision, mesh.timeout_seconds, progress)
            if back.part in EXTENSION_CHARTS:
                mend_injection(cluster, mesh, kept.namespace, progress)
            return is_done


@step("end", description="Deletes the record, and the history of uninstalled extensions.")
def end_record(mesh: LinkerdMesh, plan: UpgradePlan | None = None) -> None:
    cluster = cluster_of(mesh)
    for gone in plan.steps if plan else ():
        if gone.action == "uninstall":
            names = mesh.namespaces
            place = names.viz if gone.name == "linkerd-viz" else names.jaeger
            forget(cluster, gone.name, place)
    end(cluster, mesh)


@step("arrived", description="Says that the mesh is upgraded, and keeps its version in its block.")
def arrived(planned: Planned, record: UpgradeRecord, verified: Report, requests: Outcome) -> None:
    mesh = planned.after
    _tell(mesh, planned.plan, "linkerd.mesh.upgraded", record, verified, requests)
    keep_version(mesh)


def keep_version(mesh: LinkerdMesh) -> None:
    """Keeps a mesh's version in the block that it is from, if it is from one.

    Bootstrap and the next upgrade begin with the version that is installed.
    """
    if (name := block_name(mesh)) is None:
        return
    # Read again, as somebody may have changed the block meanwhile.
    stored = cast("LinkerdMesh", LinkerdMesh.load(name))  # pyright: ignore[reportUnknownMemberType]
    if stored.version != mesh.version:
        at_version(stored, mesh.linkerd).save(name, overwrite=True)  # pyright: ignore[reportUnknownMemberType,reportUnusedCoroutine]


@step("went back", description="Says that the mesh is at its former version again, and why.")
def went_back(planned: Planned, record: UpgradeRecord, verified: Report, requests: Outcome) -> None:
    event = "linkerd.mesh.upgrade-undone"
    _tell(planned.before, planned.plan, event, record, verified, requests)


def _tell(
    mesh: LinkerdMesh,
    plan: UpgradePlan,
    event: str,
    record: UpgradeRecord,
    verified: Report,
    requests: Outcome,
) -> None:
    is_back = record.direction == "back"
    lines = [
        f"# Mesh {mesh.name}: {'back at' if is_back else 'upgraded to'} {mesh.version}",
        "",
        f"Begun at {record.started:%Y-%m-%d %H:%M} UTC, from {record.source} to {record.target}.",
        *(["", "## Why it went back", "", record.reason] if is_back else []),
        *("", "## Before", "", "| release | chart | version | revision |", "|---|---|---|---|"),
        *(
            f"| {r.namespace}/{r.name} | {r.chart} | {r.chart_version} | {r.revision} |"
            for r in record.releases
        ),
        *("", "## Verified", "", verified.summary, ""),
        *(f"- **{r.outcome}** `{r.check.id}` {r.problems[0]}" for r in verified.failing),
    ]
    if pinned := [f for f in plan.findings if f.id.startswith("pinned-")]:
        lines += ["", "## Left alone", "", *(f"- {f.subject}: {f.message}" for f in pinned)]
    lines += requests.markdown()
    create_markdown_artifact(
        "\n".join(lines) + "\n",
        key=mesh_key(mesh.name, "upgrade"),
        description=f"Mesh {mesh.name}: {record.source} to {record.target}",
    )
    payload = {
        "from": record.source,
        "to": record.target,
        "reason": record.reason,
        "requests": requests.payload,
    }
    send([Notice(event, mesh.name, payload)])
