"""A local Prefect server for fleets of mesh files, where each mesh's run has its own process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from platformdirs import user_state_path

from prefect_linkerd.server.prefect_server import DATABASE, PrefectServer

UNUSED = {
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    # Otherwise it loads every installed integration to see whether its blocks have changed.
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
}
"""Turns off what a fleet does not use, which saves a third of the server's start time."""

PREPARING = "Preparing a local Prefect server; the first time takes half a minute."


def home() -> Path:
    """Returns the folder that keeps its data between runs, one for each version of Prefect.

    A newer Prefect migrates the database, and an older one that this user has installed elsewhere
    could no longer start with it.
    """
    return user_state_path("prefect-linkerd") / f"prefect-{version('prefect')}"


@contextmanager
def own_server(say: Callable[[str], None]) -> Generator[None]:
    """Starts a server on loopback for this process's flows; its last user stops it.

    Its data (runs, artifacts, the meshes as blocks) stays in `home`, which only its owner may read.

    Args:
        say: shows a progress message to the user.
    """
    from prefect.context import refresh_global_settings_context

    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    server = PrefectServer(folder, detached=True, settings=UNUSED)
    before = dict(os.environ)
    # One process at a time starts or stops it; many share it while their flows run.
    turn = FileLock(folder / "server.lock")
    with (folder / "users.lock").open("w") as users:
        with turn:
            if not (folder / DATABASE).exists():
                say(PREPARING)
            server.start()
            # flock directly: filelock cannot turn a held shared lock into an exclusive one.
            fcntl.flock(users, fcntl.LOCK_SH)
        os.environ.update(server.environment)
        # Plain threads see only the global settings.
        refresh_global_settings_context()
        try:
            yield
        finally:
            _send_all()
            os.environ.clear()
            os.environ.update(before)
            with turn:
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    # Another run still uses it and will stop it.
                    pass
                else:
                    server.stop()
                fcntl.flock(users, fcntl.LOCK_UN)
            refresh_global_settings_context()


def _send_all() -> None:
    """Sends Prefect's pending logs and events before the server stops."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=30)
    EventsWorker.drain_all(timeout=30)
