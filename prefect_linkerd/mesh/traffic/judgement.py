"""Whether fewer requests succeed after a batch of restarts than before it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_linkerd.mesh.chance import FALSE_ALARM, plausible_shares
from prefect_linkerd.mesh.snapshot.proxy_metrics import Responses


@dataclass(frozen=True, slots=True, order=True)
class Stream:
    """Requests to a workload, named as `Kind/namespace/name`.

    All that reach its proxies; or, with `by`, those of one caller as counted by the caller's
    proxies, which includes those that never arrive.
    """

    to: str
    by: str = ""

    def __str__(self) -> str:
        return f"{self.by} to {self.to}" if self.by else self.to


@dataclass(frozen=True, slots=True)
class Measured:
    """The requests counted within a number of seconds."""

    succeeded: int = 0
    failed: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, responses: Responses, seconds: float) -> Measured:
        return cls(round(responses.succeeded), round(responses.failed), seconds)

    @property
    def total(self) -> int:
        return self.succeeded + self.failed

    @property
    def success(self) -> float | None:
        """From 0 to 1; None if nothing was counted."""
        return self.succeeded / self.total if self.total else None

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.total / self.seconds if self.seconds else 0.0

    def __add__(self, other: Measured) -> Measured:
        """The sum of two measurements of the same time."""
        return Measured(
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            max(self.seconds, other.seconds),
        )


NOTHING = Measured()


@dataclass(frozen=True, slots=True)
class Before:
    """A stream before a batch: since its proxies started, and in the last seconds."""

    history: Measured = NOTHING
    recent: Measured = NOTHING

    def baseline(self, max_drop: float) -> Measured:
        """What a restart is compared with: all of it, or the last seconds if they are worse.

        So failures from before a restart are not blamed on it.
        """
        history, recent = self.history.success, self.recent.success
        if history is None or (recent is not None and recent < history - max_drop):
            return self.recent
        return self.history


@dataclass(frozen=True, slots=True)
class Drop:
    """A stream whose success rate dropped by more than chance explains."""

    stream: Stream
    before: Measured
    after: Measured

    @property
    def points(self) -> float:
        """The drop in percentage points, as counted."""
        return 100 * ((self.before.success or 0.0) - (self.after.success or 0.0))

    def __str__(self) -> str:
        return (
            f"{self.stream}: {in_percent(self.after)} since the restart, {in_percent(self.before)} "
            f"before it, a drop of {self.points:.1f} percentage points"
        )


def judge(
    before: Mapping[Stream, Before], after: Mapping[Stream, Measured], max_drop: float
) -> tuple[Drop, ...]:
    """The streams whose success rate dropped by more than `max_drop`, the worst first.

    Both rates are only as certain as their counts: a drop counts if even the lowest plausible rate
    before is more than `max_drop` above the highest plausible rate after. So a stream with few
    requests, or none, never counts.

    Args:
        max_drop: from 0 to 1.
    """
    drops: list[Drop] = []
    for stream, seen in before.items():
        was, now = seen.baseline(max_drop), after.get(stream, NOTHING)
        lowest, _ = plausible_shares(was.succeeded, was.total, FALSE_ALARM)
        _, highest = plausible_shares(now.succeeded, now.total, FALSE_ALARM)
        if lowest - highest > max_drop:
            drops.append(Drop(stream, was, now))
    return tuple(sorted(drops, key=lambda drop: (-drop.points, drop.stream)))


def in_percent(measured: Measured) -> str:
    """A measurement in words, such as `99.95% of 1,204 requests succeeded`."""
    if measured.success is None:
        return "no requests"
    # Rounded down: one failure in a million is not 100%.
    percent = measured.succeeded * 10_000 // measured.total / 100
    return f"{percent:g}% of {measured.total:,} requests succeeded"
