"""The steps that bring Helm releases to the state that the mesh's configuration asks for."""

from __future__ import annotations

from prefect_linkerd.mesh.helm.chart_changes import has_newer_crds
from prefect_linkerd.mesh.helm.charts import Chart, ChartCatalog
from prefect_linkerd.mesh.helm.client import Helm, ReleaseOutcome
from prefect_linkerd.mesh.helm.installed import PARTS, locate
from prefect_linkerd.mesh.helm.ownership import owner_of_release
from prefect_linkerd.mesh.helm.records import ReleaseRef, read_releases
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.identity.issuer import with_webhooks
from prefect_linkerd.mesh.install.dependencies import (
    Dependency,
    decide_dependency,
    is_served,
    own_release,
    releases_of,
    wanted_version,
)
from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS
from prefect_linkerd.mesh.planning.desired import wanted_release
from prefect_linkerd.tasks.injection import mend_injection
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, cluster_of
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.step import step


@step(
    "helm release",
    run_name="{chart.name}",
    description="Installs or upgrades one chart and waits for its workloads.",
)
def release(
    mesh: LinkerdMesh, chart: Chart, facts: ClusterFacts, trust_bundle: str = ""
) -> ReleaseOutcome:
    """Installs, upgrades, repairs or leaves alone one release."""
    at = locate(cluster_of(mesh), mesh, chart.name) if chart.name in PARTS else None
    return _reconcile(mesh, chart, facts, trust_bundle, at)


@step(
    "dependency",
    run_name="{name}",
    description="Uses what the cluster has, or keeps a Helm release of it.",
)
def dependency(mesh: LinkerdMesh, name: Dependency, facts: ClusterFacts) -> ReleaseOutcome | None:
    """None where somebody else installed it, and it is used as it is."""
    cluster = cluster_of(mesh)
    releases = read_releases(cluster)
    if decide_dependency(name, mesh, releases, served=is_served(name, cluster.serves)) == "use":
        owners = [str(owner_of_release(found)) for found in releases_of(name, releases)]
        get_run_logger().info(
            "%s is there already (%s) and is used as it is; nothing of it is written",
            name,
            ", ".join(owners) or "no Helm release",
        )
        return None
    own = own_release(name, mesh, releases)
    chart = ChartCatalog(mesh).find(name, version=wanted_version(name, mesh, own))
    return _reconcile(mesh, chart, facts, at=own.ref if own is not None else None)


def _reconcile(
    mesh: LinkerdMesh,
    chart: Chart,
    facts: ClusterFacts,
    trust_bundle: str = "",
    at: ReleaseRef | None = None,
) -> ReleaseOutcome:
    cluster = cluster_of(mesh)
    facts = with_webhooks(facts, cluster, mesh)
    desired = wanted_release(cluster, mesh, chart, facts, trust_bundle, at)
    log = get_run_logger()
    with RolloutProgress(mesh.name, desired.name) as progress:
        outcome = Helm(cluster).reconcile(desired, progress)
        if chart.name in EXTENSION_CHARTS:
            mend_injection(cluster, mesh, desired.namespace, progress)
    log.info(
        "Release %s/%s: %s, chart %s %s, revision %d",
        desired.namespace,
        desired.name,
        outcome.action,
        chart.name,
        outcome.release.chart_version,
        outcome.release.revision,
    )
    there = outcome.release
    if has_newer_crds((there.chart, there.chart_version), (chart.name, chart.version)):
        log.info(
            "The CRDs stay: %s %s is newer than %s of %s",
            chart.name,
            there.chart_version,
            chart.version,
            mesh.version,
        )
    return outcome
