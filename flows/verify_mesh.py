"""Whether a mesh is healthy, what will break and when, and what to do."""

from __future__ import annotations

from prefect_linkerd.mesh.config.verification import VerifyOptions
from prefect_linkerd.mesh.report.report import Report, unhealthy
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.outside import Ending, completed
from prefect_linkerd.tasks.verify import checks, publish

DEFAULTS = VerifyOptions()


@flow(
    name="linkerd-verify-mesh",
    flow_run_name="verify {mesh.name}",
    persist_result=False,
    validate_parameters=True,
)
def verify_mesh(mesh: LinkerdMesh, options: VerifyOptions = DEFAULTS) -> Report | Ending:
    """Judges a mesh by all that `linkerd check` knows, and more; changes nothing.

    The run fails when a check fails, and finishes in state Degraded with warnings
    alone. Its report stays as artifacts, and goes out as an event.

    Args:
        mesh: Which mesh, and what it should be.
        options: Which checks, thresholds and outputs.

    Raises:
        MeshUnhealthy: a check failed; names the checks and what they found.
    """
    report = checks(mesh, options)
    publish(mesh, report, options)
    match report.verdict:
        case "healthy":
            return report
        case "degraded":
            return completed(report, name="Degraded", message=report.summary)
        case "failed":
            raise unhealthy(report)
