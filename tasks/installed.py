"""The step that verifies what bootstrap installed, and shows it."""

from __future__ import annotations

from prefect_linkerd.mesh.bootstrap.installed import (
    Installed,
    installed,
    installed_markdown,
    verify_installed,
)
from prefect_linkerd.mesh.bootstrap.run import Charts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact, get_run_logger
from prefect_linkerd.tasks.step import step


@step("verify", description="Runs every check of verify_mesh on the mesh's own namespaces.")
def verify(mesh: Mesh, charts: Charts) -> Installed:
    """What is installed; also as an artifact.

    Raises:
        ApiError: the API server became unreachable, which says nothing about the mesh.
        MeshUnhealthy: names the checks that failed and what they found.
    """
    is_rehearsal = any(chart.is_rehearsal for chart in charts.values())
    report, name = verify_installed(mesh, rehearsal=is_rehearsal), f"Mesh {mesh.name}"
    for result in report.failing:
        get_run_logger().warning("%s: %s: %s", result.outcome, result.check.id, result.problems[0])
    found = installed(mesh, report, rehearsal=is_rehearsal)
    page = installed_markdown(found, report)
    create_markdown_artifact(page, key=mesh_key(mesh.name, "bootstrap"), description=name)
    return found
