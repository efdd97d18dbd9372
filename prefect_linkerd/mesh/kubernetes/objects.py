"""Names of Kubernetes objects and of their kinds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, Self


class Gvk(NamedTuple):
    """A kind as the API serves it: `policy/v1`, `PodDisruptionBudget`."""

    api_version: str
    kind: str


class Ref(NamedTuple):
    """An object by kind, namespace (empty if cluster-scoped) and name, as `Kind/namespace/name`."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, obj: Mapping[str, Any]) -> Self:
        """The name of an object as the API sends it."""
        metadata = obj.get("metadata", {})
        place, name = metadata.get("namespace") or "", metadata.get("name", "?")
        return cls(obj.get("kind", "Object"), place, name)

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


def condition_of(obj: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """The condition of a type, such as Ready, in an object's status; None if it has none."""
    status: Mapping[str, Any] = obj.get("status") or {}
    conditions: list[Mapping[str, Any]] = status.get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), None)


def is_true(obj: Mapping[str, Any], kind: str) -> bool:
    """Whether an object's status says that a condition holds."""
    found = condition_of(obj, kind)
    return found is not None and found["status"] == "True"


class Workload(Ref):
    """A `Ref` of a kind that creates pods."""

    __slots__ = ()


POD_HASH = "pod-template-hash"
"""The label with which a Deployment tells the pods of its ReplicaSets apart."""


def is_over(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has finished or is being deleted, so that nothing more is expected of it."""
    status: Mapping[str, Any] = pod.get("status") or {}
    return "deletionTimestamp" in pod["metadata"] or status.get("phase") in ("Succeeded", "Failed")


def owner_of_pod(metadata: Mapping[str, Any]) -> Workload | None:
    """The workload that created a pod, by the pod's own metadata; None for a bare pod."""
    owners: list[Mapping[str, Any]] = metadata.get("ownerReferences") or []
    labels: Mapping[str, str] = metadata.get("labels") or {}
    for owner in owners:
        if not owner.get("controller"):
            continue
        kind, name = owner["kind"], owner["name"]
        # A Deployment names its ReplicaSets after itself and this hash.
        suffix = f"-{labels.get(POD_HASH, '')}"
        if kind == "ReplicaSet" and len(suffix) > 1 and name.endswith(suffix):
            kind, name = "Deployment", name.removesuffix(suffix)
        # One copy of each string for all the pods of a large cluster.
        return Workload(sys.intern(kind), sys.intern(metadata["namespace"]), sys.intern(name))
    return None
