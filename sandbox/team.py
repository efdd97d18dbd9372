"""A Prefect server as a team runs it, on loopback: PostgreSQL, Redis, API replicas, services.

It uses the settings of deployments/team/server.env, and PostgreSQL and Redis from the system's
packages.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from prefect_linkerd.server.loopback import authority_file, free_ports
from prefect_linkerd.server.prefect_server import answers
from sandbox.errors import SandboxError

SETTINGS = Path(__file__).parents[1] / "deployments/team/server.env"
START_TIMEOUT = 180.0
SUPERUSER = "prefect"
POOL = "linkerd"


class Team:
    """Several replicas of Prefect's API, separate services, and any number of workers.

    As a context manager it stops everything and deletes the data at the end of the block.

    Args:
        replicas: number of API servers.
        service_processes: number of processes that run Prefect's services.
    """

    def __init__(self, *, replicas: int = 2, service_processes: int = 1) -> None:
        self._replicas = replicas
        self._service_processes = service_processes
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._data: Path | None = None
        self._ports: list[int] = []
        self.commands: list[list[str]] = []
        """The commands run and processes started, in order."""

    @property
    def data(self) -> Path:
        """The folder of the database, of Redis and of every log."""
        if self._data is None:
            raise SandboxError("the team's server is not started")
        return self._data

    @property
    def urls(self) -> list[str]:
        """The address of each replica; in production a load balancer is in front of them."""
        return [f"http://127.0.0.1:{port}" for port in self._ports[2:]]

    def environment(self, replica: int = 0) -> dict[str, str]:
        """Returns the environment variables that a process needs to use one of the replicas."""
        return {
            "PREFECT_HOME": str(self.data / "home"),
            "PREFECT_API_URL": f"{self.urls[replica]}/api",
            "PREFECT_API_SSL_CERT_FILE": str(authority_file(self.data)),
            "DO_NOT_TRACK": "1",
        }

    @property
    def _settings(self) -> dict[str, str]:
        lines = SETTINGS.read_text().splitlines()
        settings = dict(line.split("=", 1) for line in lines if line and line[0] != "#")
        database, redis = self._ports[:2]
        own = {
            "postgresql+asyncpg": f"postgresql+asyncpg://{SUPERUSER}@127.0.0.1:{database}/postgres",
            "redis": f"redis://127.0.0.1:{redis}/",
        }
        for name, value in settings.items():
            scheme, separator, rest = value.partition("://")
            if separator:
                settings[name] = own[scheme]
                if scheme == "redis":
                    settings[name] += rest.rpartition("/")[2]
        return settings | {"PREFECT_HOME": str(self.data / "home")}

    def start(self) -> Self:
        """Starts everything and waits until each replica answers.

        Raises:
            SandboxError: a program is missing, ended, or was not ready in time. Nothing is left
                running.
        """
        try:
            self._data = Path(tempfile.mkdtemp(prefix="team-"))
            self._ports = free_ports(2 + self._replicas)
            self._start_postgres()
            self._start_redis()
            self._run("migrations", [*PREFECT, "server", "database", "upgrade", "-y"])
            for number in range(self._service_processes):
                self._spawn(f"services-{number}", [*PREFECT, "server", "services", "start"])
            # One after the other: on a fresh database the first replica writes Prefect's own block
            # types, and two at once would conflict.
            for number in range(self._replicas):
                self.start_replica(number)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stops every process, the database last, and deletes the data."""
        for name in reversed(self._processes):
            self.kill(name, signal.SIGINT if name == "postgres" else signal.SIGTERM)
        self._processes.clear()
        if self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
            self._data = None

    def start_replica(self, number: int) -> None:
        """Starts one API server and waits until it answers."""
        port = str(self._ports[2 + number])
        start = ("server", "start", "--no-services", "--host", "127.0.0.1", "--port", port)
        self._spawn(f"api-{number}", [*PREFECT, *start])
        self._await(f"api-{number}", lambda: answers(self.urls[number]))

    def start_worker(self, name: str, *, replica: int = 0, limit: int = 5) -> None:
        """Starts a process worker of pool `linkerd` that uses one of the replicas."""
        pool = ("--pool", POOL, "--work-queue", "default", "--type", "process")
        worker = ("worker", "start", *pool, "--name", name)
        self._spawn(name, [*PREFECT, *worker, "--limit", str(limit)], self.environment(replica))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Stops a process; SIGKILL also kills its descendants, as the loss of its machine would."""
        process = self._processes[name]
        for strength, patience in ((number, 15.0), (signal.SIGKILL, 5.0)):
            family = _family(process.pid) if strength == signal.SIGKILL else [process.pid]
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, strength)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return

    def log(self, name: str) -> str:
        """Returns a process's output."""
        return (self.data / f"{name}.log").read_text(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Parts

    def _start_postgres(self) -> None:
        programs = _postgres_programs()
        folder = self.data / "postgres"
        folder.mkdir()
        before: tuple[str, ...] = ()
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            self.data.chmod(0o711)
            before = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
        make = (programs / "initdb", "-D", folder / "data", "-U", SUPERUSER, "--auth=trust")
        self._run("initdb", [*before, *make, "--no-sync", "--locale=C.UTF-8"], folder)
        self._spawn(
            "postgres",
            [
                *(*before, programs / "postgres", "-D", folder / "data"),
                *("-c", "listen_addresses=127.0.0.1", "-p", str(self._ports[0])),
                *("-c", f"unix_socket_directories={folder}", "-c", "fsync=off"),
                *("-c", "max_connections=200"),
            ],
            folder=folder,
        )
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._ports[0])]
        self._await("postgres", lambda: subprocess.run(ready, check=False).returncode == 0)

    def _start_redis(self) -> None:
        port = str(self._ports[1])
        options = ("--bind", "127.0.0.1", "--save", "", "--dir", self.data)
        self._spawn("redis", [_program("redis-server"), "--port", port, *options])

    def _run(self, name: str, command: Sequence[str | Path], folder: Path | None = None) -> None:
        self.commands.append(list(map(str, command)))
        done = subprocess.run(
            self.commands[-1],
            env=os.environ | self._settings,
            cwd=folder or self.data,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SandboxError(f"{name} failed: {(done.stdout + done.stderr)[-2000:]}")

    def _spawn(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.commands.append(list(map(str, command)))
        with (self.data / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                self.commands[-1],
                env=os.environ | (self._settings if environment is None else environment),
                cwd=folder or self.data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Only we receive the terminal's SIGINT, and then stop the others in order.
                start_new_session=True,
            )

    def _await(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not is_ready():
            if self._processes[name].poll() is not None or time.monotonic() > deadline:
                raise SandboxError(f"{name} ended or was not ready: {self.log(name)[-2000:]}")
            time.sleep(0.2)


PREFECT = (sys.executable, "-m", "prefect")


def _family(pid: int) -> list[int]:
    """Returns a process and its descendants: Prefect's worker puts them into their own sessions."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [child for t in threads for child in (t / "children").read_text().split()]
    except OSError:
        children = []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _postgres_programs() -> Path:
    """Returns PostgreSQL's folder of programs: Debian has one per version, which is not on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else _program("initdb").parent


def _program(name: str) -> Path:
    if (found := shutil.which(name)) is None:
        raise SandboxError(f"{name} is missing: install the packages postgresql and redis-server")
    return Path(found)
