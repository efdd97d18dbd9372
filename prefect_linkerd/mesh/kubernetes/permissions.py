"""What an identity may do to a cluster: asked of the API server before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from prefect_linkerd.mesh.kubernetes.client import Cluster

GRANT = "Grant it the role of docs/permissions.md."
SHOWN = 20


@dataclass(frozen=True)
class Permission:
    """One thing that a flow does: a verb on a resource, in a namespace or the whole cluster.

    A subresource follows a slash, as in a role. `name` is that of an object, where a role may be as
    narrow as that.
    """

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        resource += f" {self.name}" if self.name else ""
        where = f"in namespace {self.namespace}" if self.namespace else "in the cluster"
        return f"{self.verb} {resource} {where}"


def denied(cluster: Cluster, asked: Iterable[Permission]) -> list[Permission]:
    """What of it the identity that asks may not do, each once; asked side by side."""
    listed = list(dict.fromkeys(asked))

    def is_allowed(one: Permission) -> bool:
        return cluster.allowed(
            one.verb, one.resource, group=one.group, namespace=one.namespace, name=one.name
        )

    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = pool.map(is_allowed, listed)
        return [one for one, answer in zip(listed, answers, strict=True) if not answer]


def in_words(lacking: Sequence[Permission]) -> str:
    """That an identity may not do it: the first of them, and how many more there are."""
    shown = "; ".join(map(str, lacking[:SHOWN]))
    left = len(lacking) - SHOWN
    return f"this identity may not {shown}" + (f"; and {left} more" if left > 0 else "")
