"""Reads everything that the plan of an upgrade depends on; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from prefect_linkerd.mesh.checks.preflight import preflight
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.chart_releases import read_repository, released
from prefect_linkerd.mesh.helm.charts import Chart, ChartName, charts_of
from prefect_linkerd.mesh.helm.installed import mesh_releases, read_mesh_releases
from prefect_linkerd.mesh.helm.ownership import owner_of_release, refuse_theirs
from prefect_linkerd.mesh.helm.records import Release, Revision, deployed, read_releases
from prefect_linkerd.mesh.helm.values import ClusterFacts, proxy_version
from prefect_linkerd.mesh.install.dependencies import own_release, wanted_version
from prefect_linkerd.mesh.kubernetes.objects import Gvk
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS
from prefect_linkerd.mesh.linkerd.version import Channel, LinkerdVersion
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.chart_split import OLD
from prefect_linkerd.mesh.planning.desired import wanted_release
from prefect_linkerd.mesh.planning.losses import Pin
from prefect_linkerd.mesh.planning.preflight import read_preflight
from prefect_linkerd.mesh.planning.release_changes import Comparison, installed_crds, read_changes
from prefect_linkerd.mesh.records.upgrade import UpgradeRecord, read_record
from prefect_linkerd.mesh.restarts import DataPlane, Needs, read_data_plane, restart_permissions
from prefect_linkerd.mesh.snapshot.mesh import Pod, read_trust_bundle
from prefect_linkerd.mesh.upgrade.path import newest_hop
from prefect_linkerd.mesh.upgrade.plan import PlanSnapshot, at_version, check_path, source_version

TRAFFIC_SPLIT = Gvk("split.smi-spec.io/v1alpha2", "TrafficSplit")


def installed_releases(mesh: Mesh, releases: Sequence[Release]) -> dict[str, Revision]:
    """The mesh's deployed releases by the part that each is, whatever their names.

    They include cert-manager and Traefik if the upgrade policy lists them.
    """
    found: dict[str, Revision] = {}
    for part, release in mesh_releases(mesh.config, releases, {}).releases.items():
        revision = deployed(mesh.cluster, release.name, release.namespace)
        if revision is not None:
            found[part] = revision
    for name in mesh.config.upgrade.dependencies:
        if (own := own_release(name, mesh.config, releases)) is not None:
            revision = deployed(mesh.cluster, own.name, own.namespace)
            if revision is not None:
                found[name] = revision
    return found


def read_source(
    mesh: Mesh,
    releases: Sequence[Release],
    installed: Mapping[str, Revision],
    record: UpgradeRecord | None,
) -> LinkerdVersion:
    """The version that an upgrade starts from.

    Raises:
        InvalidInput: Linkerd is not installed.
        OwnershipConflict: Linkerd is installed, but not as a Helm release: by Argo CD, for example.
    """
    if record is None and not installed.keys() & set(CONTROL_PLANE_CHARTS):
        driver = read_mesh_releases(mesh.cluster, mesh.config, releases).driver
        if driver is not None:
            raise refuse_theirs(
                f"control plane in namespace {mesh.config.namespaces.linkerd}",
                driver,
                "Upgrade it there: these flows upgrade only Helm releases.",
            )
    return LinkerdVersion.parse(source_version(installed, record))


def versions_for(mesh: Mesh, current: LinkerdVersion) -> set[LinkerdVersion]:
    """The released versions of the current channel and of the upgrade policy's.

    Raises:
        ChartError: a repository cannot be read.
    """
    found: set[LinkerdVersion] = set()
    channels: set[Channel] = {current.channel, mesh.config.upgrade.channel or current.channel}
    for channel in channels:
        source = mesh.charts.source_of("linkerd-control-plane", channel=channel)
        answer = read_repository(source, None)
        found |= {release.version for release in released(answer.entries or {})}
    return found


def newest_target(mesh: Mesh) -> LinkerdVersion:
    """The target of an upgrade in progress; else the newest version that the mesh's policy wants.

    Raises:
        InvalidInput: Linkerd is not installed, or no version that the policy wants can be reached
            in one step.
        OwnershipConflict: the mesh is not a Helm release, but belongs to Argo CD, say.
        ChartError: a repository cannot be read.
    """
    record = read_record(mesh)
    if record is not None:
        return LinkerdVersion.parse(record.target)
    releases = read_releases(mesh.cluster)
    current = read_source(mesh, releases, installed_releases(mesh, releases), None)
    return newest_hop(mesh.config.upgrade, current, versions_for(mesh, current))


def read_plan(
    mesh: Mesh,
    target: LinkerdVersion,
    *,
    record: UpgradeRecord | None = None,
    accepted: frozenset[str] = frozenset(),
) -> PlanSnapshot:
    """Reads everything that the plan of an upgrade to the target depends on.

    Raises:
        InvalidInput: there is no mesh, or the target is a downgrade or skips minors.
        OwnershipConflict: the mesh is not a Helm release, but belongs to Argo CD, say.
        ChartError: one of the target's charts cannot be found.
    """
    releases = read_releases(mesh.cluster)
    installed = installed_releases(mesh, releases)
    record = record or read_record(mesh)
    source = read_source(mesh, releases, installed, record)
    check_path(source, target)
    after = mesh.configured(at_version(mesh.config, target))
    wanted = after.config
    charts: dict[ChartName, Chart] = {name: after.charts.find(name) for name in charts_of(wanted)}
    for name in mesh.config.upgrade.dependencies:
        if name in installed:
            charts[name] = after.charts.find(name, version=wanted_version(name, mesh.config, None))
    data_plane = read_data_plane(mesh.cluster, mesh.config.namespaces.linkerd)
    restarted = restart_permissions(data_plane.targets)
    found = read_preflight(mesh.configured(_released(wanted)), releases, restarted)
    bundle = read_trust_bundle(mesh)
    compared = [
        _compared(after, chart, found.facts, bundle, installed, releases)
        for chart in charts.values()
    ]
    changes = read_changes(
        after,
        at_version(mesh.config, source),
        compared,
        found.facts,
        keeps_crds=True,
    )
    rendered = {change.chart: change.rendered for change in changes}
    return PlanSnapshot(
        config=mesh.config,
        source=source,
        target=target,
        facts=found.facts,
        installed=installed,
        charts=charts,
        rendered=rendered,
        user_values={change.chart: change.extra for change in changes},
        objects=[change for each in changes for change in each.objects],
        crds=installed_crds(mesh.cluster, installed, tuple(charts.values())),
        findings=preflight(
            found,
            wanted,
            tuple(charts.values()),
            upgraded=[revision.ref for revision in installed.values()],
        ),
        traffic_splits=list(mesh.cluster.list(*TRAFFIC_SPLIT)),
        releases=releases,
        behind=sum(map(is_behind(data_plane, proxy_version(wanted)), data_plane.pods)),
        record=record,
        accepted=accepted,
        changes=changes,
        trusted=bundle,
        pins=pins_of(data_plane),
    )


def is_behind(data_plane: DataPlane, version: str) -> Needs:
    """Returns a function that says whether a pod's proxy has to be replaced to get the version.

    It says no for pods of the control plane, which Helm restarts, and for proxies that an
    annotation keeps at another version.
    """

    def needs(pod: Pod) -> bool:
        if pod.proxy is None or pod.namespace == data_plane.control_plane:
            return False
        pin = data_plane.pin_of(pod)
        return pod.proxy.version != version and (pin is None or pin[1] == version)

    return needs


def pins_of(data_plane: DataPlane) -> tuple[Pin, ...]:
    """The workloads and namespaces that keep proxies at a version, each once."""
    found = {data_plane.pin_of(pod) for pod in data_plane.pods if not pod.is_over}
    return tuple(Pin(*pin) for pin in sorted(pin for pin in found if pin is not None))


def _released(config: MeshConfig) -> MeshConfig:
    """The configuration limited to what an upgrade installs: no emojivoto, listed dependencies."""
    asked = set(config.upgrade.dependencies)
    manager = config.cert_manager.model_copy(update={"install": "cert-manager" in asked})
    traefik = config.traefik.model_copy(update={"install": "traefik" in asked})
    emojivoto = config.emojivoto.model_copy(update={"enabled": False})
    return config.model_copy(
        update={"emojivoto": emojivoto, "cert_manager": manager, "traefik": traefik}
    )


def _compared(
    mesh: Mesh,
    chart: Chart,
    facts: ClusterFacts,
    bundle: str,
    installed: Mapping[str, Revision],
    releases: Sequence[Release],
) -> Comparison:
    """A desired release and the revision it replaces: for the control plane, also 2.11's chart."""
    there = installed.get(chart.name)
    at = there.ref if there is not None else None
    is_split = chart.name == "linkerd-control-plane" and OLD in installed
    before = installed[OLD] if is_split else there
    ours = {r.ref for r in releases if owner_of_release(r).by == "prefect-linkerd"}
    found = Comparison(
        wanted_release(mesh, chart, facts, bundle, at),
        before,
        is_ours=before is not None and before.ref in ours,
    )
    return replace(found, is_settled=found.keeps_newer_crds)
