"""Waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from prefect_linkerd.mesh.kubernetes.waiting import poll

T = TypeVar("T")


def eventually(look: Callable[[], T], timeout: float = 240, *, every: float = 0.5) -> T:
    """Calls `look` until it returns something truthy, and returns that."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(every)
    return found


def eventually_equal(look: Callable[[], T], expected: T, timeout: float = 60) -> None:
    """Fails, showing the difference, if `look` does not return what is expected in time."""
    assert poll(look, lambda found: found == expected, timeout, every=0.2) == expected
