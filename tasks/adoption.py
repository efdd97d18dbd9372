"""The step that describes a running mesh."""

from __future__ import annotations

from prefect_linkerd.mesh.adoption import Adoption, adoption_markdown, describe, read_adoption
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact, get_run_logger
from prefect_linkerd.tasks.step import step


@step("look", description="Reads a running mesh and writes its configuration.")
def inspect_mesh(mesh: Mesh) -> Adoption:
    adoption = describe(read_adoption(mesh.cluster, mesh.config))
    log = get_run_logger()
    for part, owner in adoption.owners:
        log.info("%s: %s", part, owner)
    for text in adoption.missing:
        log.warning("To be added: %s", text)
    create_markdown_artifact(
        adoption_markdown(adoption),
        key=mesh_key(mesh.name, "adoption"),
        description=f"Mesh {mesh.name}: its configuration, and what each flow could do with it",
    )
    return adoption
