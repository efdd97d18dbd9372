"""The gate that an upgrade passes before and after: whether the mesh works."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect.logging import get_run_logger

from mesh.helm import Helm
from mesh.proof import Proof, prove, read_proof, require_proof
from tasks.linkerd_mesh import LinkerdMesh, cluster_of
from tasks.step import step


@step("verify", description="Whether everything of the mesh works, at the version it should have.")
def verify(mesh: LinkerdMesh) -> Proof:
    """Raises `NotReady`, naming everything that does not work."""
    cluster = cluster_of(mesh)
    # A release that an upgrade uninstalled keeps its history until the upgrade is over.
    releases = [release for release in Helm(cluster).releases() if release.status != "uninstalled"]
    proof = require_proof(prove(read_proof(cluster, mesh, releases), datetime.now(UTC)))
    get_run_logger().info("%s works, with %d meshed pods", mesh.version, proof.proxies)
    return proof
