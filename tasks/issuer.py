"""The step that gives the mesh an issuer: signed here, or by cert-manager."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect_linkerd.mesh.identity.issuer import (
    Issuer,
    ensure_cert_manager_issuer,
    ensure_self_signed_issuer,
)
from prefect_linkerd.mesh.identity.trust_anchor import TrustAnchor
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.step import step
from prefect_linkerd.tasks.trust_anchor import key_store


@step(
    "issuer", description="Adopts or issues the intermediate that signs every proxy's certificate."
)
def issuer(mesh: Mesh, anchor: TrustAnchor) -> Issuer:
    store = key_store(mesh)
    now = datetime.now(UTC)
    if mesh.config.issuer == "cert-manager":
        made = ensure_cert_manager_issuer(mesh, anchor, store, now, mesh.config.timeout_seconds)
    else:
        made = ensure_self_signed_issuer(mesh, anchor, store, now)
    get_run_logger().info(
        "Issuer %s (%s), until %s", made.info.subject, made.origin, made.info.not_after
    )
    return made
