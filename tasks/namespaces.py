"""The step that creates namespaces and, for a private registry, their pull secrets."""

from __future__ import annotations

from prefect_linkerd.mesh.bootstrap.run import Bootstrap
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.step import step


@step(
    "namespaces",
    description="Creates every namespace, with the labels that Linkerd needs, and pull secrets.",
)
def namespaces(run: Bootstrap) -> list[str]:
    """The namespaces that were created or changed."""
    changed = run.make_namespaces()
    get_run_logger().info("Namespaces changed: %s", ", ".join(changed) or "none")
    return changed
