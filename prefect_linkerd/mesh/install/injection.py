"""Finds pods that were created without Linkerd's proxy, and restarts their workloads.

Without high availability the injector's webhook fails open: a pod that is created while no
injector answers runs without a proxy until it is recreated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from prefect_linkerd.mesh.errors import NotReady
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object, name_of
from prefect_linkerd.mesh.kubernetes.objects import Workload, is_over, owner_of_pod
from prefect_linkerd.mesh.kubernetes.rollout import KINDS, OnProgress, await_rollouts

PROXY = "linkerd-proxy"
CONTROL_PLANE_NS = "linkerd.io/control-plane-ns"
"""The label that the injector sets on a pod: the namespace of the control plane."""
PROXY_VERSION = "config.linkerd.io/proxy-version"
"""The annotation of a pod or namespace that pins proxies to a version, whatever the mesh's.

Source: https://linkerd.io/2/reference/proxy-configuration/
"""
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
ATTEMPTS = 3


def proxy_of(pod: Object) -> Object | None:
    """A pod's proxy container, or None; as a native sidecar it is an init container."""
    spec: Object = pod["spec"]
    containers: list[Object] = spec["containers"] + spec.get("initContainers", [])
    return next((c for c in containers if c["name"] == PROXY), None)


def should_be_meshed(pod: Object) -> bool:
    """Whether a pod of a meshed workload is one that the injector should have given a proxy."""
    metadata: Object = pod["metadata"]
    is_job = any(owner["kind"] == "Job" for owner in metadata.get("ownerReferences", []))
    is_disabled = metadata.get("annotations", {}).get("linkerd.io/inject") == "disabled"
    return not (is_job or is_disabled or is_over(pod))


def unmeshed(cluster: Cluster, namespace: str | None = None) -> list[Workload]:
    """The workloads of a namespace, or of the cluster, with a pod that lacks its proxy.

    In a namespace that is not meshed, that is every workload.
    """
    owners = {
        owner_of_pod(pod["metadata"])
        for pod in cluster.list("v1", "Pod", namespace, labels=f"!{CONTROL_PLANE_NS}")
        if should_be_meshed(pod) and proxy_of(pod) is None
    }
    return sorted(owner for owner in owners if owner is not None and owner.kind in KINDS)


def require_proxies(pods: Sequence[Object], remedy: str) -> None:
    """Checks that pods that ask for a proxy have one.

    Raises:
        NotReady: names the first pod without one.
    """
    bare = [name_of(pod) for pod in pods if proxy_of(pod) is None]
    if bare:
        raise NotReady(
            bare[0],
            expected=f"a container {PROXY}, as linkerd.io/inject asks for",
            found=f"none in {len(bare)} of {len(pods)} pods",
            remedy=remedy,
        )


def restart(cluster: Cluster, workload: Workload, now: datetime) -> None:
    """Recreates a workload's pods, as `kubectl rollout restart` does."""
    kind, namespace, name = workload
    annotations = {RESTARTED_AT: now.isoformat(timespec="seconds")}
    patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    cluster.merge(KINDS[kind], kind, name, namespace, patch)


def ensure_meshed(
    cluster: Cluster, namespace: str, timeout: float, on_progress: OnProgress
) -> list[Workload]:
    """Restarts the workloads that came up without a proxy, and returns them.

    Args:
        timeout: seconds that one rollout may take.

    Raises:
        NotReady: a restarted workload does not come up again.
    """
    restarted: list[Workload] = []
    for attempt in range(ATTEMPTS):
        bare = unmeshed(cluster, namespace)
        if not bare:
            break
        # The injector has just come back, or is about to.
        time.sleep(2.0 * (attempt + 1))
        for workload in bare:
            restart(cluster, workload, datetime.now(UTC))
        await_rollouts(cluster, bare, timeout, on_progress)
        restarted += bare
    return restarted
