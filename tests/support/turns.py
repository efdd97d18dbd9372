"""Turns at the processors: as many tests at once as keep them busy, and beside them what waits.

What waits for a timeout, a probe or a certificate's end leaves its worker's share of the processors
idle. So there are more workers than that, and a test that works takes a turn, of which there are
three for four workers. One that is marked as `waits`, or that is `fast`, takes none.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

FOLDER = "PREFECT_LINKERD_TEST_TURNS"
"""The variable that tells the workers of a run where its turns are."""

EVERY = 0.1
"""Seconds between two looks for a turn."""


def open_turns() -> None:
    """Makes the turns of this run, in the process that starts its workers."""
    if FOLDER not in os.environ:
        folder = os.environ[FOLDER] = tempfile.mkdtemp(prefix="turns-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


@contextmanager
def turn(item: pytest.Item) -> Iterator[None]:
    """Waits until a test may begin; other tests can have a turn at the end of the block."""
    if item.get_closest_marker("waits") or item.get_closest_marker("fast"):
        yield
        return
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = max(min(workers, 3), workers * 3 // 4)
    folder = Path(os.environ[FOLDER])
    turns = [FileLock(folder / str(one)) for one in range(number)]
    # Who looks for a turn has the next one, and not a worker that has just ended another.
    with FileLock(folder / "next"):
        while not any(map(_is_taken, turns)):
            time.sleep(EVERY)
    try:
        yield
    finally:
        for each in turns:
            each.release()


def _is_taken(one: FileLock) -> bool:
    try:
        one.acquire(blocking=False)
    except Timeout:
        return False
    return True
