"""Brings the mesh's Helm releases to what its configuration asks for."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_linkerd.mesh.config.model import Dependency
from prefect_linkerd.mesh.helm.chart_changes import has_newer_crds
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.client import ReleaseOutcome
from prefect_linkerd.mesh.helm.installed import PARTS, locate
from prefect_linkerd.mesh.helm.ownership import owner_of_release
from prefect_linkerd.mesh.helm.records import ReleaseRef, read_releases
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.identity.issuer import with_webhooks
from prefect_linkerd.mesh.install.dependencies import (
    decide_dependency,
    is_served,
    own_release,
    releases_of,
    wanted_version,
)
from prefect_linkerd.mesh.install.injection import ensure_meshed
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.rollout import OnProgress, Shown
from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.desired import wanted_release


@dataclass(frozen=True)
class Reconciled:
    """What was done to the release of `chart`.

    `remeshed` are its workloads that came up without a proxy and were restarted.
    """

    chart: Chart
    outcome: ReleaseOutcome
    remeshed: tuple[Workload, ...] = ()

    @property
    def keeps_newer_crds(self) -> bool:
        """Whether the release's CRDs are newer than the chart's, and so stay."""
        there = self.outcome.release
        found = (there.chart, there.chart_version)
        return has_newer_crds(found, (self.chart.name, self.chart.version))

    @property
    def summary(self) -> str:
        release = self.outcome.release
        return (
            f"Release {release.namespace}/{release.name}: {self.outcome.action}, "
            f"chart {self.chart.name} {release.chart_version}, revision {release.revision}"
        )


@dataclass(frozen=True)
class FoundDependency:
    """A dependency of the mesh: the chart to install, and its existing release.

    `chart` is None if `owners` have installed the dependency, which is then used as it is.
    """

    chart: Chart | None
    at: ReleaseRef | None = None
    owners: tuple[str, ...] = ()


def find_dependency(mesh: Mesh, name: Dependency) -> FoundDependency:
    """Whether these flows install a dependency, and in which version.

    Raises:
        ChartError: its chart cannot be found.
        InvalidInput: it is not installed, and these flows may not install it.
    """
    releases = read_releases(mesh.cluster)
    served = is_served(name, mesh.cluster.serves)
    if decide_dependency(name, mesh.config, releases, served=served) == "use":
        owners = [str(owner_of_release(found)) for found in releases_of(name, releases)]
        return FoundDependency(None, owners=tuple(owners))
    own = own_release(name, mesh.config, releases)
    chart = mesh.charts.find(name, version=wanted_version(name, mesh.config, own))
    return FoundDependency(chart, own.ref if own is not None else None)


def ensure_dependency(
    mesh: Mesh, name: Dependency, facts: ClusterFacts, shown: Shown
) -> Reconciled | FoundDependency:
    """Installs or upgrades a dependency; if somebody else's is used, returns its owners.

    Raises:
        ChartError: its chart cannot be found.
        InvalidInput: it is not installed, and these flows may not install it.
        ReleaseError: Helm fails, or its workloads do not come up.
    """
    found = find_dependency(mesh, name)
    if found.chart is None:
        return found
    with shown(found.at.name if found.at is not None else found.chart.name) as on_progress:
        return _reconcile(mesh, found.chart, facts, on_progress, "", found.at)


def ensure_release(
    mesh: Mesh, chart: Chart, facts: ClusterFacts, shown: Shown, trust_bundle: str = ""
) -> Reconciled:
    """Installs, upgrades, repairs or leaves alone a chart's release, whatever its namespace.

    Args:
        trust_bundle: the PEM of every anchor that the mesh trusts.

    Raises:
        ReleaseError: Helm fails, or its workloads do not come up.
    """
    at = locate(mesh.cluster, mesh.config, chart.name) if chart.name in PARTS else None
    with shown(at.name if at is not None else chart.name) as on_progress:
        return _reconcile(mesh, chart, facts, on_progress, trust_bundle, at)


def _reconcile(
    mesh: Mesh,
    chart: Chart,
    facts: ClusterFacts,
    on_progress: OnProgress,
    trust_bundle: str,
    at: ReleaseRef | None,
) -> Reconciled:
    desired = wanted_release(mesh, chart, with_webhooks(facts, mesh), trust_bundle, at)
    outcome = mesh.helm.reconcile(desired, on_progress)
    remeshed: list[Workload] = []
    if chart.name in EXTENSION_CHARTS:
        timeout = mesh.config.timeout_seconds
        remeshed = ensure_meshed(mesh.cluster, desired.namespace, timeout, on_progress)
    return Reconciled(chart, outcome, tuple(remeshed))
