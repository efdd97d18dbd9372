"""Objects that users, not flows, create in a cluster, as their tools leave them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefect_linkerd.mesh.kubernetes.client import APPLY_PATCH, Cluster, Object


def live(cluster: Cluster, obj: Object) -> Object:
    """An object as it is in the cluster."""
    metadata = obj["metadata"]
    found = cluster.get(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace"))
    assert found is not None, obj
    return found


def by_kubectl(cluster: Cluster, obj: Object) -> Object:
    """Creates an object as `kubectl create` does; returns it as it is in the cluster."""
    path = cluster.path(obj["apiVersion"], obj["kind"], obj["metadata"].get("namespace"))
    cluster.request("POST", path, query={"fieldManager": "kubectl-create"}, body=obj)
    return live(cluster, obj)


def applied(cluster: Cluster, obj: Object, manager: str) -> Object:
    """Server-side apply by a controller or a pipeline; returns the object from the cluster."""
    metadata = obj["metadata"]
    path = cluster.path(obj["apiVersion"], obj["kind"], metadata.get("namespace"), metadata["name"])
    query = {"fieldManager": manager, "force": "true"}
    cluster.request("PATCH", path, query=query, body=obj, content_type=APPLY_PATCH)
    return live(cluster, obj)


def content(cluster: Cluster, objects: Iterable[Object]) -> list[Any]:
    """Who wrote objects and what they say: all that a write of ours would change."""
    found: list[Any] = []
    for obj in objects:
        there = live(cluster, obj)
        metadata = there["metadata"]
        managers = {
            entry["manager"]
            for entry in metadata.get("managedFields") or ()
            if entry["manager"] != "kube-controller-manager"
        }
        said = {key: value for key, value in there.items() if key not in ("metadata", "status")}
        found.append((metadata["uid"], metadata.get("labels"), said, managers))
    return found
