"""The step that deploys the demonstration application, meshed."""

from __future__ import annotations

from prefect_linkerd.mesh.install.emojivoto import ensure_emojivoto
from prefect_linkerd.mesh.install.injection import ensure_meshed
from prefect_linkerd.mesh.kubernetes.rollout import await_rollouts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.injection import tell_remeshed
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.step import step


@step(
    "emojivoto", description="Deploys the demo application with proxies, and waits for its rollout."
)
def emojivoto(mesh: Mesh) -> list[str]:
    """The names of its workloads."""
    workloads = ensure_emojivoto(mesh)
    with RolloutProgress(mesh.name, "emojivoto") as progress:
        await_rollouts(mesh.cluster, workloads, mesh.config.timeout_seconds, progress)
        place, timeout = mesh.config.namespaces.emojivoto, mesh.config.timeout_seconds
        remeshed = ensure_meshed(mesh.cluster, place, timeout, progress)
    tell_remeshed(remeshed)
    return [str(workload) for workload in workloads]
