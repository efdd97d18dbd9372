"""Waiting for what a cluster does by itself, by looking again and again.

Not by tenacity: it retries a call, and the last look here also says what to put into the error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator


def looks(seconds: float, *, every: float) -> Iterator[bool]:
    """One item for each look; whether it is the last one. There is always one.

    ```python
    for is_last in looks(60, every=0.5):
        if is_there():
            return
        if is_last:
            raise NotReady(…)
    ```

    Args:
        seconds: after which no more looks begin.
        every: seconds between two looks.
    """
    deadline = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= deadline
        yield is_last
        if is_last:
            return
        time.sleep(every)
