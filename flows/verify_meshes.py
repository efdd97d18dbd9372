"""Verifies several meshes in one run, each in a subflow run."""

from __future__ import annotations

from typing import Any, cast

from prefect import tags
from prefect.client.schemas.objects import State

from prefect_linkerd.flows.verify_mesh import DEFAULTS, verify_mesh
from prefect_linkerd.mesh.checks.options import VerifyOptions
from prefect_linkerd.mesh.errors import InvalidInput, MeshUnhealthy
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.names import READS, TAG


@flow(
    run_name="verify meshes",
    changes=False,
    page="verify.md",
    needs_server=True,
)
def verify_meshes(meshes: list[str], options: VerifyOptions = DEFAULTS) -> dict[str, str]:
    """Verify several meshes; one that is broken or unreachable does not stop the others.

    Args:
        meshes: The names of Linkerd Mesh blocks.
        options: Which checks, thresholds and outputs; files are available only in verify_mesh.

    Returns:
        The name of the final state of each mesh's run.

    Raises:
        InvalidInput: no mesh is named, a block does not exist, or a file would be written twice.
        MeshUnhealthy: at least one mesh is unhealthy or could not be verified.

    Example:
        >>> verify_meshes(["production", "staging"])
        {'production': 'Completed', 'staging': 'Degraded'}
    """
    if not meshes or options.json_file or options.metrics_file:
        raise InvalidInput(
            "verify_meshes",
            expected="the names of Linkerd Mesh blocks, and no output file",
            found="a file that every mesh would write" if meshes else "no mesh",
            remedy="Name the meshes; use verify_mesh for a file.",
        )
    blocks = {name: cast("LinkerdMesh", LinkerdMesh.load(name)) for name in meshes}
    # A subflow runs on its parent's worker and is lost with it. With the tags of a deployment's run
    # it is marked as crashed too (`automations.lost_runs`).
    with tags(TAG, READS):
        states: dict[str, State[Any]] = {
            name: verify_mesh(mesh, options, return_state=True) for name, mesh in blocks.items()
        }
    failed = {name: state for name, state in states.items() if not state.is_completed()}
    if failed:
        raise MeshUnhealthy(
            f"{len(failed)} of {len(states)} meshes",
            expected="every check to pass",
            found="; ".join(f"{name}: {state.message}" for name, state in failed.items()),
            remedy="Look at the run of each.",
        )
    return {name: state.name or "" for name, state in states.items()}
