"""One Prefect server for all processes that run tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from prefect_linkerd.server.prefect_server import PrefectServer
from tests.support.waiting import eventually

UNUSED_SERVICES = {
    f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false"
    for service in (
        "CANCELLATION_CLEANUP",
        "FOREMAN",
        "LATE_RUNS",
        "PAUSE_EXPIRATIONS",
        "REPOSSESSOR",
        "SCHEDULER",
    )
}
"""Turns off a Prefect server's services for schedules and workers."""

PATIENCE = 3600.0
"""Seconds that it is kept at most for other processes, which may still run their longest tests."""


@contextmanager
def one_server(home: Path, settings: Mapping[str, str]) -> Iterator[PrefectServer]:
    """The server in a folder; runs from the first process that needs it until the last is done."""
    lock, users = FileLock(home / "lock"), home / "users"
    users.mkdir(parents=True, exist_ok=True)
    server, here = PrefectServer(home, settings=settings), users / str(os.getpid())
    with lock:
        is_ours = not server.is_running
        server.start()
        here.touch()

    def stop_unused() -> bool:
        with lock:
            if is_unused := not any(users.iterdir()):
                server.stop()
            return is_unused

    try:
        yield server
    finally:
        here.unlink()
        if is_ours:
            # Only the process that started the server can wait for it to exit.
            eventually(stop_unused, PATIENCE)
