"""A local Prefect server on loopback, with its data in one folder."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from platformdirs import user_cache_path

from prefect_linkerd.mesh.kubernetes.waiting import polls
from prefect_linkerd.server.loopback import NO_TLS, authority_file, free_ports

DATABASE = "prefect.db"


class PrefectServer:
    """Prefect's API, UI and services (events, automations, schedules) on SQLite.

    Args:
        home: the folder for its database, profile and log.
        port: 0 picks a free one.
        detached: whether it outlives this process; `stop` stops it by its recorded pid.
        settings: more Prefect settings, by environment variable, for the server only.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int = 0,
        detached: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self._port = port
        self._detached = detached
        self._settings = settings or {}
        self._pidfile = home / "server.pid"
        self.log = home / "server.log"

    @property
    def url(self) -> str:
        """The UI's address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make a process use this server and no other."""
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_API_SSL_CERT_FILE": str(authority_file(self.home)),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "DO_NOT_TRACK": "1",
        }

    @property
    def is_running(self) -> bool:
        """Whether a server with this home responds, even one that another process started."""
        return self._pid() is not None and answers(self.url)

    def start(self, timeout: float = 300) -> None:
        """Starts the server, or uses the one that a detached start left running.

        Migrating a new database takes half a minute, so a migrated one is kept as a template.

        Raises:
            RuntimeError: it exited or did not respond in time; with the tail of its log.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        if self.is_running:
            return
        is_migrated = self._prepare_database()
        self._port = self._port or free_ports(1)[0]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "prefect", "server", "start"),
                    *("--host", "127.0.0.1", "--port", str(self._port)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    **self._settings,
                    **self.environment,
                    # Checking a migrated database for migrations takes seconds.
                    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": str(not is_migrated).lower(),
                },
                start_new_session=self._detached,
            )
        self._pidfile.write_text(f"{process.pid} {self._port}")
        try:
            for is_last in polls(timeout, every=0.2):
                if answers(self.url):
                    break
                if process.poll() is not None:
                    raise RuntimeError(f"the Prefect server exited: {self._tail()}")
                if is_last:
                    raise RuntimeError(f"no Prefect server after {timeout:.0f} s: {self._tail()}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server; does nothing if it is not running."""
        if (pid := self._pid()) is None:
            return
        end(pid, 15.0)
        self._pidfile.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare_database(self) -> bool:
        """Copies an empty migrated database, made once per user and version, if there is none yet.

        Returns:
            Whether it did; an existing database may be from another version of Prefect.
        """
        database = self.home / DATABASE
        if database.exists():
            return False
        template = user_cache_path("prefect-linkerd") / f"prefect-{version('prefect')}.db"
        if not template.exists():
            template.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=template.parent) as folder:
                subprocess.run(
                    [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                    env=os.environ | {"PREFECT_HOME": folder},
                    capture_output=True,
                    check=True,
                )
                # A backup includes what is only in the write-ahead log.
                _copy(Path(folder, DATABASE), Path(folder, "whole.db"))
                Path(folder, "whole.db").replace(template)
        _copy(template, database)
        return True

    def _pid(self) -> int | None:
        try:
            pid, port = map(int, self._pidfile.read_text().split())
        except (OSError, ValueError):
            return None
        if not _runs(pid):
            return None
        self._port = port
        return pid

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


def answers(url: str) -> bool:
    """Whether a Prefect server responds at an address."""
    try:
        answer = httpx.get(f"{url}/api/health", timeout=15, trust_env=False, verify=NO_TLS)
    except httpx.HTTPError:
        return False
    return answer.is_success


def _copy(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source)) as read,
        contextlib.closing(sqlite3.connect(target)) as written,
    ):
        read.backup(written)


def end(pid: int, patience: float, *, group: bool = False) -> None:
    """Stops a process with SIGTERM, then with SIGKILL.

    Args:
        patience: seconds that it has to exit after SIGTERM.
        group: whether to signal the whole process group that it leads.
    """
    send = os.killpg if group else os.kill
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        try:
            send(pid, number)
        except ProcessLookupError:
            return
        for _ in polls(seconds, every=0.1):
            if not _runs(pid):
                return


def _runs(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        # A child that has exited stays a zombie until it is waited for.
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
