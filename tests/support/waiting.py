"""Waiting for what comes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from prefect_linkerd.mesh.kubernetes.waiting import poll

T = TypeVar("T")


def eventually(look: Callable[[], T], timeout: float = 240, *, every: float = 0.5) -> T:
    """What `look` returns once that is something."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(every)
    return found


def eventually_equal(look: Callable[[], T], expected: T, timeout: float = 60) -> None:
    """Fails, with what differs, where `look` does not come to give what is expected."""
    assert poll(look, lambda found: found == expected, timeout, every=0.2) == expected
