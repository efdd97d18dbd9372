"""The steps that bring Helm releases to the state that the mesh's configuration asks for."""

from __future__ import annotations

from functools import partial

from prefect_linkerd.mesh.bootstrap.run import Bootstrap
from prefect_linkerd.mesh.config.model import Dependency
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.client import ReleaseOutcome
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.releases import Reconciled, ensure_release
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
    shown = partial(RolloutProgress, mesh.name)
    return _told(mesh, ensure_release(mesh, chart, facts, shown, trust_bundle))


@step(
    "dependency",
    run_name="{name}",
    description="Uses what the cluster has, or installs and upgrades a Helm release of it.",
)
def dependency(run: Bootstrap, name: Dependency) -> ReleaseOutcome | None:
    """None where somebody else installed it, and it is used as it is."""
    done = run.use_dependency(name)
    if isinstance(done, Reconciled):
        return _told(run.mesh, done)
    get_run_logger().info(
        "%s is there already (%s) and is used as it is; nothing of it is changed",
        name,
        ", ".join(done.owners) or "no Helm release",
    )
    return None


def _told(mesh: Mesh, done: Reconciled) -> ReleaseOutcome:
    """What was done, once the run's log says it."""
    log, chart = get_run_logger(), done.chart
    tell_remeshed(done.remeshed)
    log.info(done.summary)
    if done.keeps_newer_crds:
        there = done.outcome.release.chart_version
        newer = "The CRDs stay: %s %s is newer than %s of %s"
        log.info(newer, chart.name, there, chart.version, mesh.config.version)
    return done.outcome
