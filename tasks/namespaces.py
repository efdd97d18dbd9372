"""The steps that make namespaces and, for a private registry, the pull secrets in them."""

from __future__ import annotations

from prefect_linkerd.mesh.install.namespaces import ensure_namespaces
from prefect_linkerd.mesh.install.registry import ensure_pull_secrets
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.step import step


@step(
    "namespaces",
    description="Creates every namespace, with the labels that Linkerd needs, and pull secrets.",
)
def namespaces(mesh: Mesh) -> list[str]:
    """The namespaces that were made or changed."""
    changed = ensure_namespaces(mesh)
    get_run_logger().info("Namespaces changed: %s", ", ".join(changed) or "none")
    ensure_pull_secrets(mesh)
    return changed
