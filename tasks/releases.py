"""The steps that bring Helm releases to the state that the mesh's configuration asks for."""

from __future__ import annotations

from prefect_linkerd.mesh.config.model import Dependency
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.client import ReleaseOutcome
from prefect_linkerd.mesh.helm.records import ReleaseRef
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.releases import find_dependency, location, reconcile
from prefect_linkerd.tasks.injection import tell_remeshed
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.step import step


@step(
    "helm release",
    run_name="{chart.name}",
    description="Installs or upgrades one chart and waits for its workloads.",
)
def release(
    mesh: Mesh, chart: Chart, facts: ClusterFacts, trust_bundle: str = ""
) -> ReleaseOutcome:
    """Installs, upgrades, repairs or leaves alone one release."""
    return _reconcile(mesh, chart, facts, trust_bundle, location(mesh, chart))


@step(
    "dependency",
    run_name="{name}",
    description="Uses what the cluster has, or installs and upgrades a Helm release of it.",
)
def dependency(mesh: Mesh, name: Dependency, facts: ClusterFacts) -> ReleaseOutcome | None:
    """None where somebody else installed it, and it is used as it is."""
    found = find_dependency(mesh, name)
    if found.chart is not None:
        return _reconcile(mesh, found.chart, facts, "", found.at)
    get_run_logger().info(
        "%s is there already (%s) and is used as it is; nothing of it is changed",
        name,
        ", ".join(found.owners) or "no Helm release",
    )
    return None


def _reconcile(
    mesh: Mesh, chart: Chart, facts: ClusterFacts, trust_bundle: str, at: ReleaseRef | None
) -> ReleaseOutcome:
    log = get_run_logger()
    with RolloutProgress(mesh.name, at.name if at is not None else chart.name) as progress:
        done = reconcile(mesh, chart, facts, progress, trust_bundle=trust_bundle, at=at)
    tell_remeshed(done.remeshed)
    log.info(done.summary)
    if done.keeps_newer_crds:
        there = done.outcome.release.chart_version
        newer = "The CRDs stay: %s %s is newer than %s of %s"
        log.info(newer, chart.name, there, chart.version, mesh.config.version)
    return done.outcome
