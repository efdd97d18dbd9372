"""What an identity may do to a cluster: asked of the API server before anything is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from prefect_linkerd.mesh.errors import ApiError, PreflightFailed
from prefect_linkerd.mesh.kubernetes.client import Cluster

GRANT = "Grant it the role of docs/permissions.md."
FORBIDDEN = 403

SEVERAL = 3
"""Namespaces from which on one question about the whole cluster is likely to save some."""


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


EVERYTHING = Permission("*", "*", "*")
"""What a cluster's administrator may do: every verb, in Kubernetes' own words."""

MANY = 10
"""Questions from which on one about everything is likely to save the others."""


def denied(cluster: Cluster, asked: Iterable[Permission]) -> list[Permission]:
    """What of it the identity that asks may not do, each once; asked side by side.

    An administrator is asked for everything at once. What is asked for in several namespaces is
    asked for the whole cluster first: an identity that may do it there may do it in each of them.
    """
    listed = list(dict.fromkeys(asked))
    times = Counter(map(_everywhere, listed))

    def is_allowed(one: Permission) -> bool:
        return cluster.allowed(
            one.verb, one.resource, group=one.group, namespace=one.namespace, name=one.name
        )

    if len(times) >= MANY and is_allowed(EVERYTHING):
        return []
    with ThreadPoolExecutor(max_workers=8) as pool:

        def allowed(some: Sequence[Permission]) -> set[Permission]:
            answers = pool.map(is_allowed, some)
            return {one for one, answer in zip(some, answers, strict=True) if answer}

        everywhere = allowed([one for one, count in times.items() if count >= SEVERAL])
        left = [one for one in listed if _everywhere(one) not in everywhere]
        granted = allowed(left)
    return [one for one in left if one not in granted]


def _everywhere(one: Permission) -> Permission:
    """The same in the whole cluster."""
    return replace(one, namespace="")


def in_words(lacking: Sequence[Permission]) -> str:
    """That an identity may not do it: all of it, the verbs of a resource together."""
    verbs: dict[Permission, list[str]] = {}
    for one in lacking:
        verbs.setdefault(replace(one, verb=""), []).append(one.verb)
    shown = (f"{', '.join(found)}{of}" for of, found in verbs.items())
    return f"this identity may not {'; '.join(shown)}"


@contextmanager
def all_at_once(
    cluster: Cluster,
    what: str,
    asked: Callable[[], Iterable[Permission]],
    *,
    expected: str = "every permission that it needs, before anything changes",
) -> Generator[None]:
    """Names every missing permission where one request is refused, and not that one alone.

    Args:
        what: what is about to be done, such as `bootstrap of mesh m`.
        asked: everything that it reads and writes; only asked for where a request is refused.
        expected: by default for what is read before anything changes.

    Raises:
        PreflightFailed: instead of the refusal.
    """
    try:
        yield
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        # A role that lacks something else than what is asked for: the refusal says what.
        if not (lacking := denied(cluster, asked())):
            raise
        raise PreflightFailed(
            what,
            expected=expected,
            found=in_words(lacking),
            remedy=GRANT,
        ) from None
