"""Pauses Python's garbage collector while a whole cluster is read."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager

_lock = threading.Lock()
_readers = 0
_was_enabled = False


@contextmanager
def paused_collector() -> Generator[None]:
    """Pauses the cyclic garbage collector until the last of several overlapping blocks ends.

    Lists of thousands of objects have no cycles and are freed without it. Left on, it would scan
    everything read so far again and again: half of the time that reading 5,000 pods takes.
    """
    global _readers, _was_enabled
    with _lock:
        if not _readers:
            _was_enabled = gc.isenabled()
            gc.disable()
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if not _readers and _was_enabled:
                gc.enable()
