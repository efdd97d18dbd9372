"""Restarts what came up without a proxy while the injector was unreachable, and says so."""

from __future__ import annotations

from prefect_linkerd.mesh.install.injection import ensure_meshed
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.outside import get_run_logger
from prefect_linkerd.tasks.progress import RolloutProgress


def mend_injection(
    cluster: Cluster, mesh: LinkerdMesh, namespace: str, progress: RolloutProgress
) -> None:
    """Part of a step that deploys meshed workloads; does nothing where all have their proxy."""
    for kind, place, name in ensure_meshed(cluster, namespace, mesh.timeout_seconds, progress):
        get_run_logger().warning(
            "%s/%s/%s came up without a proxy and was restarted", kind, place, name
        )
