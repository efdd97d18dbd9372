"""The steps of bootstrap before it changes anything: finding charts, and the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prefect_linkerd.mesh.bootstrap.early import EARLY
from prefect_linkerd.mesh.bootstrap.plan import BootstrapPlan, bootstrap_markdown, plan_bootstrap
from prefect_linkerd.mesh.bootstrap.run import Charts, Rendered
from prefect_linkerd.mesh.bootstrap.run import find_charts as find_all
from prefect_linkerd.mesh.bootstrap.snapshot import read_bootstrap
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.kubernetes.permissions import naming_all_missing
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.preflight import permissions
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact, get_run_logger
from prefect_linkerd.tasks.step import step
from prefect_linkerd.tasks.trust_anchor import key_store


@step("find charts", description="Finds every chart of the mesh in its repository.")
def find_charts(mesh: Mesh) -> Charts:
    found = find_all(mesh)
    log = get_run_logger()
    for chart in found.values():
        log.info("Chart %s %s from %s", chart.name, chart.version, chart.source)
        if chart.is_rehearsal:
            log.warning("%s is a rehearsal chart: it is not the real software", chart.name)
    return found


@dataclass(frozen=True)
class PlannedBootstrap:
    """A plan, the cluster's facts, and the rendered objects of the charts that others wait for."""

    plan: BootstrapPlan
    facts: ClusterFacts
    rendered: Rendered = field(default_factory=dict[str, Sequence[Object]], repr=False)


@step(
    "preflight",
    description="Checks that the mesh can be installed, and plans what would change.",
)
def plan(mesh: Mesh, charts: Charts, accept: frozenset[str]) -> PlannedBootstrap:
    """The plan, also as a Markdown artifact; changes nothing.

    Raises:
        InvalidInput: the provided or stored trust anchor is unfit, or a dependency is missing.
    """
    mesh.helm.require()
    with naming_all_missing(
        mesh.cluster, f"bootstrap of mesh {mesh.name}", lambda: permissions(mesh.config)
    ):
        snapshot = read_bootstrap(mesh, tuple(charts.values()), key_store(mesh), accept)
    made = plan_bootstrap(snapshot)
    create_markdown_artifact(
        bootstrap_markdown(made),
        key=mesh_key(mesh.name, "bootstrap-plan"),
        description=f"Mesh {mesh.name}: bootstrap of {made.version}",
    )
    log = get_run_logger()
    for finding in made.findings:
        log.warning("%s: %s", finding.severity, finding)
    rendered = {each.chart: each.rendered for each in snapshot.changes if each.chart in EARLY}
    return PlannedBootstrap(made, snapshot.facts, rendered)
