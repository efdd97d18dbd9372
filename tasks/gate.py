"""The gate that an upgrade passes before and after: whether the mesh works."""

from __future__ import annotations

import time

from prefect_linkerd.mesh.checks import CATEGORIES
from prefect_linkerd.mesh.config.verification import DEFAULT_SCOPES
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.report import report
from prefect_linkerd.mesh.report.report import Report, unhealthy
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, cluster_of
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.step import step


@step("verify", description="Every check of verify_mesh, at the version that the mesh should have.")
def verify(mesh: LinkerdMesh, *, patience: float = 0.0) -> Report:
    """The report, with warnings at most: an outdated version or a lost chart source is no error.

    Args:
        patience: seconds for which an error may pass by itself.

    Raises:
        ApiError: the API server was lost meanwhile, which says nothing about the mesh.
        MeshUnhealthy: naming the checks that failed and what they found.
    """
    cluster, catalog = cluster_of(mesh), ChartCatalog(mesh)
    deadline = time.monotonic() + patience
    while True:
        snapshot = read_snapshot(cluster, mesh, catalog=catalog)
        for error in snapshot.unread.values():
            if isinstance(error, ApiError) and error.transient:
                raise error
        found = report.verify(snapshot, CATEGORIES, DEFAULT_SCOPES)
        if found.verdict != "failed" or time.monotonic() > deadline:
            break
        time.sleep(2.0)
    log = get_run_logger()
    log.info(found.summary)
    for result in found.failing:
        log.warning("%s: %s: %s", result.outcome, result.check.id, result.problems[0])
    if found.verdict == "failed":
        raise unhealthy(found)
    return found
