"""Describes a mesh that Helm installed, so that the other flows can manage it."""

from __future__ import annotations

from prefect_linkerd.mesh.adoption import Adoption
from prefect_linkerd.tasks.adoption import inspect_mesh
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, connect


@flow(
    run_name="adopt {mesh.name}",
    changes=False,
    page="adopt.md",
    command="adopt",
    grants="adoption_reads",
)
def adopt(mesh: LinkerdMesh) -> Adoption:
    """Print the configuration of a running mesh that Helm installed, and what each flow can
    do with it.

    Reports who owns each part, what each of the other flows can do with the mesh, and what has to
    be added to the configuration first, such as the trust anchor's key.

    Args:
        mesh: Its name, the access to its cluster and the source of its charts. Everything else is
            read from the cluster.

    Raises:
        InvalidInput: the cluster has no Linkerd.

    Example:
        >>> found = adopt(LinkerdMesh(access=ClusterAccess(context="production")))
        >>> found.config["version"]
        'stable-2.14.10'
    """
    return inspect_mesh(connect(mesh))
