"""The step that deploys the demonstration application, meshed."""

from __future__ import annotations

from prefect_linkerd.mesh.install.emojivoto import ensure_emojivoto
from prefect_linkerd.mesh.kubernetes.rollout import await_rollouts
from prefect_linkerd.tasks.injection import mend_injection
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh, cluster_of
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.step import step


@step("emojivoto", description="The demonstration application, meshed, with its rollout awaited.")
def emojivoto(mesh: LinkerdMesh) -> list[str]:
    """The names of its workloads."""
    cluster = cluster_of(mesh)
    workloads = ensure_emojivoto(cluster, mesh)
    with RolloutProgress(mesh.name, "emojivoto") as progress:
        await_rollouts(cluster, workloads, mesh.timeout_seconds, progress)
        mend_injection(cluster, mesh, mesh.namespaces.emojivoto, progress)
    return ["/".join(workload) for workload in workloads]
