"""The step that deploys the demonstration application, meshed."""

from __future__ import annotations

from mesh.emojivoto import ensure_emojivoto
from mesh.rollout import await_rollouts
from tasks.injection import mend_injection
from tasks.linkerd_mesh import LinkerdMesh, cluster_of
from tasks.progress import RolloutProgress
from tasks.step import step


@step("emojivoto", description="The demonstration application, meshed, with its rollout awaited.")
def emojivoto(mesh: LinkerdMesh) -> list[str]:
    """The names of its workloads."""
    cluster = cluster_of(mesh)
    workloads = ensure_emojivoto(cluster, mesh)
    with RolloutProgress(mesh.name, "emojivoto") as progress:
        await_rollouts(cluster, workloads, mesh.timeout_seconds, progress)
        mend_injection(cluster, mesh, mesh.namespaces.emojivoto, progress)
    return ["/".join(workload) for workload in workloads]
