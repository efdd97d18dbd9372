"""What an identity may do in a cluster: the API server is asked before anything is changed."""

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
"""With this many namespaces, asking once for the whole cluster is likely to save requests."""


@dataclass(frozen=True)
class Permission:
    """One thing that a flow does: a verb on a resource, in a namespace or the whole cluster.

    A subresource follows a slash, as in a role. `name` is an object's, if a role can be limited to
    that object.
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
"""What a cluster administrator may do: every verb on every resource, as RBAC writes it."""

MANY = 10
"""With this many permissions, asking for `EVERYTHING` first is likely to save requests."""


def denied(cluster: Cluster, asked: Iterable[Permission]) -> list[Permission]:
    """The permissions among these that this identity lacks, each once; asked for concurrently.

    If there are many, it first asks whether the identity is an administrator. A permission in
    several namespaces is first asked for in the whole cluster, which includes each namespace.
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
    """The same permission for the whole cluster."""
    return replace(one, namespace="")


def in_words(lacking: Sequence[Permission]) -> str:
    """Says that an identity lacks these permissions: all of them, grouped by resource."""
    verbs: dict[Permission, list[str]] = {}
    for one in lacking:
        verbs.setdefault(replace(one, verb=""), []).append(one.verb)
    shown = (f"{', '.join(found)}{of}" for of, found in verbs.items())
    return f"this identity may not {'; '.join(shown)}"


@contextmanager
def naming_all_missing(
    cluster: Cluster,
    what: str,
    asked: Callable[[], Iterable[Permission]],
    *,
    expected: str = "every permission that it needs, before anything changes",
) -> Generator[None]:
    """If a request is refused, names every missing permission instead of that one alone.

    Args:
        what: what is about to be done, such as `bootstrap of mesh m`.
        asked: returns everything that it reads and writes; called only if a request is refused.
        expected: the default is for reads before anything changes.

    Raises:
        PreflightFailed: instead of the refusal.
    """
    try:
        yield
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        # The role lacks something that `asked` does not list: the refusal says what.
        if not (lacking := denied(cluster, asked())):
            raise
        raise PreflightFailed(
            what,
            expected=expected,
            found=in_words(lacking),
            remedy=GRANT,
        ) from None
