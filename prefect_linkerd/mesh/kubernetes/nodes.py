"""Nodes: whether they are ready, and whether a kubelet runs containers on them."""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.kubernetes.objects import is_true


def is_ready(node: Object) -> bool:
    return is_true(node, "Ready")


def runs_containers(node: Object) -> bool:
    """Whether a node has a kubelet with a container runtime.

    A kubelet reports its runtime as `type://version`; simulated nodes report none, and those of
    kwok have its annotation.
    """
    status = node.get("status", {})
    runtime = str(status.get("nodeInfo", {}).get("containerRuntimeVersion", ""))
    return "://" in runtime and "kwok.x-k8s.io/node" not in node["metadata"].get("annotations", {})


def runs_pods(nodes: Iterable[Object]) -> bool:
    """Whether some node would accept a pod and run its containers."""
    return any(runs_containers(node) and not node["spec"].get("unschedulable") for node in nodes)
