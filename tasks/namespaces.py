"""The steps that make namespaces and, for a private registry, the pull secrets in them."""

from __future__ import annotations

from prefect_linkerd.mesh.install.namespaces import ensure_namespaces
from prefect_linkerd.mesh.install.registry import ensure_pull_secrets
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, cluster_of
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.step import step


@step("namespaces", description="Every namespace, with the labels Linkerd wants, and pull secrets.")
def namespaces(mesh: LinkerdMesh) -> list[str]:
    """The namespaces that were made or changed."""
    cluster = cluster_of(mesh)
    changed = ensure_namespaces(cluster, mesh)
    get_run_logger().info("Namespaces changed: %s", ", ".join(changed) or "none")
    ensure_pull_secrets(cluster, mesh)
    return changed
