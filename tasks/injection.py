"""Logs workloads that were restarted because the injector was unreachable when they came up."""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.tasks.outside import get_run_logger


def log_restarted(restarted: Iterable[Workload]) -> None:
    """Called within a step that deploys meshed workloads."""
    for workload in restarted:
        get_run_logger().warning("%s came up without a proxy and was restarted", workload)
