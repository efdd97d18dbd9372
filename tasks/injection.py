"""Restarts what came up without a proxy while the injector was away, and says so."""

from __future__ import annotations

from prefect.logging import get_run_logger

from mesh.cluster import Cluster
from mesh.injection import ensure_meshed
from tasks.linkerd_mesh import LinkerdMesh
from tasks.progress import RolloutProgress


def mend_injection(
    cluster: Cluster, mesh: LinkerdMesh, namespace: str, progress: RolloutProgress
) -> None:
    """Part of a step that deploys meshed workloads; does nothing where all have their proxy."""
    for kind, place, name in ensure_meshed(cluster, namespace, mesh.timeout_seconds, progress):
        get_run_logger().warning(
            "%s/%s/%s came up without a proxy and was restarted", kind, place, name
        )
