"""Which generations of the probe exist, and which a phase starts and ends. Pure.

A generation is a set of pods that started at the same point of a change, so that their proxies
trust the same anchors, have certificates of the same issuer and are of the same version. The
generation from before a phase stays until the phase's restarts are done, so that for all of the
phase old asks new and new asks old. It is ended before the phase is proven: then no proxy may be
left that the next phase's certificates are unknown to, and the probe's are no exception.
"""

from __future__ import annotations

from dataclasses import dataclass

BEFORE = "before"
"""The phase of the first generation: nothing has changed yet."""


@dataclass(frozen=True)
class Generation:
    """One generation; `number` counts all that a run has started."""

    number: int
    phase: str

    @property
    def name(self) -> str:
        """How its objects and its pairs are named.

        >>> Generation(2, "data plane").name
        '2-data-plane'
        """
        return f"{self.number}-{self.phase.replace(' ', '-')}"


@dataclass(frozen=True)
class Generations:
    """The generations that exist, from the oldest to the newest."""

    living: tuple[Generation, ...] = ()
    started: int = 0

    @property
    def newest(self) -> Generation | None:
        return self.living[-1] if self.living else None

    @property
    def older(self) -> tuple[Generation, ...]:
        """What ends once a phase's restarts are done: all but the newest."""
        return self.living[:-1]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(generation.name for generation in self.living)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Who asks whom: each client and server, its own generation included."""
        return tuple((client, server) for client in self.names for server in self.names)

    def next(self, phase: str) -> Generation:
        """The one that a phase would start."""
        return Generation(self.started, phase)

    def starting(self, phase: str) -> Generations:
        """With a phase's generation."""
        return Generations((*self.living, self.next(phase)), self.started + 1)

    def ending_older(self) -> Generations:
        """With the newest alone."""
        return Generations(self.living[-1:], self.started)
