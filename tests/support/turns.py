"""Turns at the processors: runs as many busy tests at once as keep them busy, and waiting ones too.

A test that waits for a timeout, a probe or a certificate's expiry leaves its worker's share of the
processors idle. So there are more workers than processors need, and a busy test takes a turn; there
are three turns for four workers. A test that is marked `waits` or `fast` takes none.
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
"""The environment variable that tells a run's workers where its turns are."""

EVERY = 0.1
"""Seconds between two attempts to take a turn."""


def open_turns() -> None:
    """Creates this run's turns, in the process that starts its workers."""
    if FOLDER not in os.environ:
        folder = os.environ[FOLDER] = tempfile.mkdtemp(prefix="turns-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


@contextmanager
def turn(item: pytest.Item) -> Iterator[None]:
    """Waits until a test may start; frees its turn at the end of the block."""
    if item.get_closest_marker("waits") or item.get_closest_marker("fast"):
        yield
        return
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = max(min(workers, 3), workers * 3 // 4)
    folder = Path(os.environ[FOLDER])
    turns = [FileLock(folder / str(one)) for one in range(number)]
    # The worker that has waited gets the next turn, not one that has just finished a test.
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
