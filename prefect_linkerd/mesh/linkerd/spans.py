"""Spans of Linkerd versions, by which a check says which versions have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefect_linkerd.mesh.linkerd.facts import (
    LAST_STABLE,
    ReleaseFacts,
    first_versions,
    release_facts,
)
from prefect_linkerd.mesh.linkerd.version import OLDEST, Channel, LinkerdVersion

Edge = tuple[int, int, int]


@dataclass(frozen=True)
class Versions:
    """The Linkerd versions that have a feature.

    `since` is the first stable version that has it and `until` the last; two numbers stand for all
    releases of a minor. `since_edge` is the first edge that has it and `before_edge` the first that
    no longer does. With `until`, no edge has it unless `before_edge` is set.
    """

    since: tuple[int, ...] | None = None
    until: tuple[int, ...] | None = None
    edge_only: bool = False
    since_edge: Edge | None = None
    before_edge: Edge | None = None

    def __contains__(self, version: LinkerdVersion) -> bool:
        numbers = version.numbers
        if version.channel == "edge":
            if self.since_edge is not None and numbers < self.since_edge:
                return False
            return self.until is None if self.before_edge is None else numbers < self.before_edge
        if self.edge_only or (self.since is not None and numbers < self.since):
            return False
        return self.until is None or numbers[: len(self.until)] <= self.until

    @property
    def first_stable(self) -> str:
        """The first stable release, or a whole minor: `stable-2.12`."""
        return f"stable-{_dotted(self.since or OLDEST['stable'][:2])}"

    def __str__(self) -> str:
        if self.edge_only:
            return f"edge-{_dotted(self.since_edge)} and newer" if self.since_edge else "edge"
        first, last = _dotted(self.since or OLDEST["stable"][:2]), _dotted(self.until)
        bounds = [
            f"{word} {_dotted(bound)}"
            for word, bound in (("from", self.since_edge), ("before", self.before_edge))
            if bound is not None
        ]
        edges = f", edges {' '.join(bounds)}" if bounds else ""
        if self.until is None:
            if self.before_edge is not None:
                return f"{first} to {_dotted(LAST_STABLE)}{edges}"
            return f"{first} and newer{edges}" if self.since else "all"
        if first.startswith(f"{last}."):
            return f"{last} from {first} on{edges}"
        return (first if first == last else f"{first} to {last}") + edges


ALL_VERSIONS = Versions()


def versions_where(holds: Callable[[ReleaseFacts], bool]) -> Versions:
    """The versions for whose facts the predicate holds.

    Raises:
        ValueError: `Versions` cannot describe them as one span.

    Example:
        >>> str(versions_where(lambda facts: "linkerd-jaeger" in facts.extensions))
        '2.11 to 2.14, edges before 25.10.1'
    """
    stable, edge = (_span(channel, holds) for channel in ("stable", "edge"))
    match stable, edge:
        case None, (since_edge, None):
            return Versions(edge_only=True, since_edge=since_edge)
        case (since, end), None:
            return Versions(_short(since), _before(end) if end else LAST_STABLE)
        case (since, None), (since_edge, before_edge):
            return Versions(_short(since), None, False, since_edge, before_edge)
        case (since, end), (since_edge, before_edge) if end and before_edge:
            return Versions(_short(since), _before(end), False, since_edge, before_edge)
        case _:
            raise ValueError(f"no span of versions: stable {stable}, edge {edge}")


def _span(
    channel: Channel, holds: Callable[[ReleaseFacts], bool]
) -> tuple[Edge | None, Edge | None] | None:
    """The first version for which the predicate holds, and the first for which it no longer does.

    A bound is None if it holds from the oldest version on, or up to the newest. Returns None if it
    never holds.
    """
    firsts: Sequence[LinkerdVersion] = first_versions(channel)
    told = [holds(release_facts(first)) for first in firsts]
    changes = [i for i in range(1, len(told)) if told[i] != told[i - 1]]
    if not any(told):
        return None
    bounds = [firsts[i].numbers for i in changes]
    if not told[0]:
        start, *rest = bounds
    else:
        start, rest = None, bounds
    if len(rest) > 1:
        raise ValueError(f"{channel} releases have it more than once: {bounds}")
    return start, rest[0] if rest else None


def _short(numbers: Edge | None) -> tuple[int, ...] | None:
    return numbers[:2] if numbers and not numbers[2] else numbers


def _before(numbers: Edge) -> tuple[int, ...]:
    """The last release before a version: the previous patch, or the previous minor for patch 0."""
    major, minor, patch = numbers
    return (major, minor, patch - 1) if patch else (major, minor - 1)


def _dotted(numbers: tuple[int, ...] | None) -> str:
    return ".".join(map(str, numbers or ()))
