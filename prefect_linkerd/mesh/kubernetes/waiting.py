"""Waiting for something that happens elsewhere: in a cluster, or in another process.

Without tenacity: it retries a call, and here the last poll also finds what to put into the error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator


def polls(seconds: float, *, every: float) -> Iterator[bool]:
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
        every: seconds between two polls.
    """
    deadline = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() >= deadline
        yield is_last
        if is_last:
            return
        time.sleep(every)
