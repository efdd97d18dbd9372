"""The step that puts the dashboard and the demo application behind Traefik."""

from __future__ import annotations

from prefect_linkerd.mesh.bootstrap.run import Bootstrap
from prefect_linkerd.mesh.kubernetes.client import name_of
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.step import step


@step("ingress", description="Creates middlewares, routes and the dashboard's password.")
def ingress(run: Bootstrap) -> list[str]:
    """The names of the ingress objects, as `Kind/namespace/name`."""
    names = [name_of(obj) for obj in run.make_ingress()]
    get_run_logger().info("Ingress objects: %s", ", ".join(names) or "none")
    return names
