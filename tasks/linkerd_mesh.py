"""The mesh that a step works on: a Prefect block, or without Prefect the plain configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.outside import reports_are_about, without_prefect

if TYPE_CHECKING or not without_prefect():
    from prefect_linkerd.tasks.mesh_block import LinkerdMesh
else:
    LinkerdMesh = MeshConfig

__all__ = ["LinkerdMesh", "block_name", "connect", "reference"]


def reference(block: str) -> dict[str, Any]:
    """A Linkerd Mesh block as a parameter: by name, so that none of its secrets is copied."""
    return {"$ref": {"block_document_slug": f"linkerd-mesh/{block}"}}


def block_name(mesh: MeshConfig) -> str | None:
    """The name of the block that a mesh was loaded from; None if it is not from a block."""
    return getattr(mesh, "_block_document_name", None)


def connect(mesh: MeshConfig) -> Mesh:
    """The mesh that a flow passes to its steps: uses its credentials block, else its `access`.

    A block without a version is saved with the version that this run uses.

    Raises:
        InvalidInput: there is no usable kubeconfig or service account.
    """
    # A mesh from a file has neither `store_version` nor `credentials`.
    if (store_version := getattr(mesh, "store_version", None)) is not None:
        store_version()
    credentials = getattr(mesh, "credentials", None)
    if credentials is not None and (stored := credentials.cluster_config) is not None:
        config: dict[str, Any] = stored.config  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
        live = Mesh(Cluster(config, stored.context_name), mesh)
    else:
        live = Mesh(Cluster.from_access(mesh.access), mesh)
    reports_are_about(live)
    return live
