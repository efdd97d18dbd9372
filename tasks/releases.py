"""The steps that reconcile Helm releases with the mesh's configuration."""

from __future__ import annotations

from functools import partial

from prefect_linkerd.mesh.bootstrap.run import Bootstrap
from prefect_linkerd.mesh.config.model import Dependency
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.client import ReleaseOutcome
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.releases import Reconciled, ensure_release
from prefect_linkerd.tasks.injection import log_restarted
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
    """Installs, upgrades or repairs one release, or leaves it alone."""
    shown = partial(RolloutProgress, mesh.name)
    return _told(mesh, ensure_release(mesh, chart, facts, shown, trust_bundle))


@step(
    "dependency",
    run_name="{name}",
    description="Uses the existing installation, or installs or upgrades a Helm release.",
)
def dependency(run: Bootstrap, name: Dependency) -> ReleaseOutcome | None:
    """The release; None if somebody else installed the dependency, which is used unchanged."""
    done = run.use_dependency(name)
    if isinstance(done, Reconciled):
        return _told(run.mesh, done)
    get_run_logger().info(
        "%s is already installed (%s) and is used unchanged",
        name,
        ", ".join(done.owners) or "no Helm release",
    )
    return None


def _told(mesh: Mesh, done: Reconciled) -> ReleaseOutcome:
    """Logs what was done, and returns the outcome."""
    log, chart = get_run_logger(), done.chart
    log_restarted(done.remeshed)
    log.info(done.summary)
    if done.keeps_newer_crds:
        there = done.outcome.release.chart_version
        newer = "The CRDs stay: %s %s is newer than %s of %s"
        log.info(newer, chart.name, there, chart.version, mesh.config.version)
    return done.outcome
