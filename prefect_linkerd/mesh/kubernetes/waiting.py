"""The only way to wait with a deadline for something in a cluster or in another process.

Does not use tenacity, which retries a call: here the last poll also collects what the error says.

Code that sleeps without it waits for a point in time (`Cluster.wait_until`, a window of requests)
or, without a deadline, for another run's lease or helm process, which ends by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

AGREEMENT = 0.5
"""Seconds by which two clocks may differ in measuring the same period."""


class Stopwatch:
    """The time since it was created.

    Reads two clocks: one of them stops while the machine sleeps, the other may be set back.
    """

    def __init__(self) -> None:
        self._monotonic, self._wall = time.monotonic(), time.time()

    @property
    def seconds(self) -> float:
        return max(self._elapsed)

    @property
    def agrees(self) -> bool:
        """Whether both clocks agree: the machine did not sleep, and its clock was not set."""
        monotonic, wall = self._elapsed
        return abs(monotonic - wall) < AGREEMENT

    @property
    def _elapsed(self) -> tuple[float, float]:
        return time.monotonic() - self._monotonic, time.time() - self._wall


def polls(seconds: float, *, every: float | Callable[[], float]) -> Iterator[bool]:
    """Yields once for each poll, and at least once: whether this poll is the last.

    ```python
    for is_last in polls(60, every=0.5):
        if is_there():
            return
        if is_last:
            raise NotReady(…)
    ```

    Args:
        seconds: time after which the last poll happens.
        every: seconds between two polls, or a function that returns the next pause.
    """
    deadline = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= deadline
        yield is_last
        if is_last:
            return
        pause = every() if callable(every) else every
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))


def poll(
    find: Callable[[], T],
    until: Callable[[T], bool],
    seconds: float,
    *,
    every: float | Callable[[], float],
) -> T:
    """Calls `find` until its result satisfies `until` or time is up; returns the last result.

    ```python
    report = poll(verify, lambda found: found.verdict != "failed", 60, every=2)
    ```
    """
    for is_last in polls(seconds, every=every):
        found = find()
        if is_last or until(found):
            return found
    raise AssertionError("the last poll returns")
