"""The step that proves, before anything is touched, that a cluster can take the mesh."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect.logging import get_run_logger

from mesh.charts import Chart, ChartCatalog, ChartName, charts_of
from mesh.helm import require_helm
from mesh.helm_record import read_releases
from mesh.preflight import preflight, read_preflight, require
from mesh.trust_anchor import decide_trust_anchor, read_snapshot
from mesh.values import ClusterFacts
from tasks.linkerd_mesh import LinkerdMesh, cluster_of
from tasks.step import step
from tasks.trust_anchor import key_store

Plan = dict[ChartName, Chart]
"""The charts that a mesh is installed from, by name, in order."""


@step("find charts", description="Finds every chart of the mesh in its repository.")
def find_charts(mesh: LinkerdMesh) -> Plan:
    catalog = ChartCatalog(mesh)
    plan: Plan = {name: catalog.find(name) for name in charts_of(mesh)}
    log = get_run_logger()
    for chart in plan.values():
        log.info("Chart %s %s from %s", chart.name, chart.version, chart.source)
        if chart.is_rehearsal:
            log.warning("%s is a rehearsal chart: it is not the real software", chart.name)
    return plan


@step("preflight", description="All that `linkerd check --pre` looks at, and our own needs.")
def check_cluster(mesh: LinkerdMesh, charts: Plan) -> ClusterFacts:
    """Raises `PreflightFailed`, which names every reason, when the cluster cannot take the mesh."""
    cluster = cluster_of(mesh)
    require_helm()
    planned = tuple(charts.values())
    snapshot = read_preflight(cluster, mesh, read_releases(cluster))
    findings = preflight(snapshot, mesh, planned)
    log = get_run_logger()
    for finding in findings:
        log.warning("%s", finding)
    require(findings)
    # A brought or kept trust anchor that is unfit is refused here, before anything is touched.
    store = key_store(mesh, cluster)
    decide_trust_anchor(read_snapshot(cluster, mesh, store), mesh, datetime.now(UTC), store.where)
    return snapshot.facts
