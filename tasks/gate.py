"""The gate before and after an upgrade: is the mesh healthy?"""

from __future__ import annotations

from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.report.gate import await_verdict
from prefect_linkerd.mesh.report.report import Report, unhealthy
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.step import step


@step(
    "verify",
    description="Runs every check of verify_mesh, for the version that the mesh should have.",
)
def verify(mesh: Mesh, *, patience: float = 0.0) -> Report:
    """A report without errors. An outdated version or an unreachable chart source only warns.

    Args:
        patience: seconds to wait for an error to resolve itself.

    Raises:
        ApiError: the API server became unreachable, which says nothing about the mesh.
        MeshUnhealthy: names the checks that failed and what they found.
    """
    found, log = await_verdict(mesh, patience), get_run_logger()
    log.info(found.summary)
    for result in found.failing:
        log.warning("%s: %s: %s", result.outcome, result.check.id, result.problems[0])
    if found.verdict == "failed":
        raise unhealthy(found)
    return found
