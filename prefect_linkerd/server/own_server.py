"""The Prefect server of a fleet of mesh files: each mesh's run is in a process of its own."""

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
    # Else it loads every integration that is installed, to see whether their blocks have changed.
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
}
"""A third of what starting the server costs: nobody looks for Prefect's own blocks on a form."""

PREPARING = "Preparing a Prefect server of your own; the first time this takes half a minute."


def home() -> Path:
    """Where its data stays between runs: a folder for each version of Prefect.

    A newer Prefect migrates a database so that an older one, of another installation of this user,
    no longer starts with it.
    """
    return user_state_path("prefect-linkerd") / f"prefect-{version('prefect')}"


@contextmanager
def own_server(say: Callable[[str], None]) -> Generator[None]:
    """Starts a server on loopback for the flows of this process, and ends it with its last user.

    What it keeps (runs, artifacts, the meshes as blocks) stays in `home`, which only its owner may
    read.

    Args:
        say: takes what a person may want to know meanwhile.
    """
    from prefect.context import refresh_global_settings_context

    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    server = PrefectServer(folder, detached=True, settings=UNUSED)
    before = dict(os.environ)
    # Starting and stopping are for one process alone; while flows run many share it.
    turn = FileLock(folder / "server.lock")
    with (folder / "users.lock").open("w") as users:
        with turn:
            if not (folder / DATABASE).exists():
                say(PREPARING)
            server.start()
            # By flock itself: none of filelock's goes from shared to exclusive while it is held.
            fcntl.flock(users, fcntl.LOCK_SH)
        os.environ.update(server.environment)
        # A plain thread has the global settings alone.
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
                    # Another run still uses it, and ends it.
                    pass
                else:
                    server.stop()
                fcntl.flock(users, fcntl.LOCK_UN)
            refresh_global_settings_context()


def _send_all() -> None:
    """What Prefect has yet to send goes out before the server ends."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=30)
    EventsWorker.drain_all(timeout=30)
