"""The one wait with a deadline: for what happens in a cluster, or in another process.

Without tenacity: it retries a call, and here the last poll also finds what to put into the error.

Code that sleeps without it waits for a moment (`Cluster.wait_until`, a window of requests) or,
without a deadline, for the lease or the helm of another run, which ends by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

AGREEMENT = 0.5
"""Seconds by which two clocks may differ that measure the same time."""


class Stopwatch:
    """What has passed since it was made.

    By two clocks: one of them stands still while a machine sleeps, the other may be set back.
    """

    def __init__(self) -> None:
        self._monotonic, self._wall = time.monotonic(), time.time()

    @property
    def seconds(self) -> float:
        return max(self._elapsed)

    @property
    def agrees(self) -> bool:
        """Whether both clocks say the same: the machine did not sleep, nor was its clock set."""
        monotonic, wall = self._elapsed
        return abs(monotonic - wall) < AGREEMENT

    @property
    def _elapsed(self) -> tuple[float, float]:
        return time.monotonic() - self._monotonic, time.time() - self._wall


def polls(seconds: float, *, every: float | Callable[[], float]) -> Iterator[bool]:
    """One item for each poll: whether it is the last. There is always one.

    ```python
    for is_last in polls(60, every=0.5):
        if is_there():
            return
        if is_last:
            raise NotReady(…)
    ```

    Args:
        seconds: after these, one last poll.
        every: seconds between two polls, or what says how many there are to be now.
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
    """What is found once it is as wanted; what is found last where it never is in time.

    ```python
    report = poll(verify, lambda found: found.verdict != "failed", 60, every=2)
    ```
    """
    for is_last in polls(seconds, every=every):
        found = find()
        if is_last or until(found):
            return found
    raise AssertionError("the last poll returns")
