"""Which generations of the probe exist, and which of them a phase starts and ends. Pure.

A generation is a set of pods that started at the same point of a change, so their proxies trust
the same anchors, have certificates from the same issuer and run the same version. The generation
from before a phase stays until the phase's restarts are done, so that old and new pods send each
other requests during the whole phase. It ends before the phase is proven: from then on every proxy,
including the probe's, has to trust the next phase's certificates.
"""

from __future__ import annotations

from dataclasses import dataclass

BEFORE = "before"
"""The phase of the first generation: nothing has changed yet."""


@dataclass(frozen=True)
class Generation:
    """One generation; `number` counts those that the run started before it."""

    number: int
    phase: str

    @property
    def name(self) -> str:
        """The name in its objects and its pairs.

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
        """The generations that end once a phase's restarts are done: all but the newest."""
        return self.living[:-1]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(generation.name for generation in self.living)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every pair of client and server generations, a generation with itself included."""
        return tuple((client, server) for client in self.names for server in self.names)

    def next(self, phase: str) -> Generation:
        """The generation that a phase would start."""
        return Generation(self.started, phase)

    def starting(self, phase: str) -> Generations:
        """The generations after a phase has started its own."""
        return Generations((*self.living, self.next(phase)), self.started + 1)

    def ending_older(self) -> Generations:
        """The generations after all but the newest have ended."""
        return Generations(self.living[-1:], self.started)
