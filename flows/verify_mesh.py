"""Verifies a mesh: whether it is healthy, what will break and when, and what to do."""

from __future__ import annotations

from prefect_linkerd.mesh.checks.options import VerifyOptions
from prefect_linkerd.mesh.report.report import Report, unhealthy
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect
from prefect_linkerd.tasks.outside import Ending, completed
from prefect_linkerd.tasks.verify import checks, publish

DEFAULTS = VerifyOptions()


@flow(
    run_name="verify {mesh.name}",
    changes=False,
    page="verify.md",
    command="verify",
    grants="mesh_reads",
    fleet=True,
    schedules={
        # What `linkerd check` covers; the deep run adds our own checks.
        "quick": {
            "minutes": 15,
            "at": "00:00",
            "parameters": {
                "options": {"scopes": ["control-plane", "cni", "proxy", "viz", "jaeger"]}
            },
        },
        "deep": {"minutes": 1440, "at": "03:05"},
    },
)
def verify_mesh(mesh: LinkerdMesh, options: VerifyOptions = DEFAULTS) -> Report | Ending:
    """Run every check of `linkerd check` and more; change nothing.

    The run fails if a check fails, and finishes in state Degraded if there are only warnings. It
    saves the report as artifacts, and sends an event.

    Args:
        mesh: The mesh and its expected configuration.
        options: Which checks, thresholds and outputs.

    Raises:
        MeshUnhealthy: a check failed; names the checks and what they found.

    Example:
        >>> verify_mesh(LinkerdMesh.load("production"), VerifyOptions(scopes=["proxy"])).verdict
        'healthy'
    """
    live = connect(mesh)
    report = checks(live, options)
    publish(live, report, options)
    match report.verdict:
        case "healthy":
            return report
        case "degraded":
            return completed(report, name="Degraded", message=report.summary)
        case "failed":
            raise unhealthy(report)
