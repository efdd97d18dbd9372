"""The step that gives the mesh an issuer: signed here, or by cert-manager."""

from __future__ import annotations

from prefect_linkerd.mesh.bootstrap.run import Bootstrap
from prefect_linkerd.mesh.identity.issuer import Issuer
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.step import step


@step(
    "issuer", description="Adopts or issues the intermediate that signs every proxy's certificate."
)
def issuer(run: Bootstrap) -> Issuer:
    made = run.ensure_issuer()
    get_run_logger().info(
        "Issuer %s (%s), until %s", made.info.subject, made.origin, made.info.not_after
    )
    return made
