"""Runs flows as users run them: each in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sandbox.cluster import Sandbox
from tests.support.advice import heard

ConfigFactory = Callable[..., dict[str, Any]]
FlowRunner = Callable[..., subprocess.CompletedProcess[str]]
ReadyWholeMesh = Callable[..., tuple[Sandbox, dict[str, Any]]]
"""What the fixture `ready_whole_mesh` returns."""
WholeMesh = Callable[..., AbstractContextManager[tuple[Sandbox, dict[str, Any]]]]
"""What the fixture `whole_mesh` returns."""


class Flows:
    """Runs flows, each in a process of its own (see `tests.flows.run_flows`)."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder, self._reports = process, folder, folder / "reports"
        self._reports.mkdir()
        self._runs = 0

    def __call__(
        self,
        flow: str,
        config: dict[str, Any],
        *,
        kill: tuple[str, int] | None = None,
        kill_after: str | None = None,
        ill: tuple[str, int, str] | None = None,
        lag: tuple[str, str] | None = None,
        loopback: bool = False,
        on_server: bool = False,
        **parameters: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a flow to its end; the faults are arguments of `tests.flows.faults`.

        Args:
            loopback: whether pods run on a `LoopbackNode`.
            on_server: whether the run is on Prefect's server, for tests that look at it there.
                Without a server a run takes three quarters of the processor time.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self._runs += 1
        files = tuple(self._folder / f"{self._runs}.{name}" for name in ("stdout", "stderr"))
        request = {
            "flow": flow,
            "mesh": config,
            "parameters": parameters,
            "kill": kill,
            "kill_after": kill_after,
            "ill": ill,
            "lag": lag,
            "loopback": loopback,
            "on_server": on_server,
            "reports": str(self._reports),
            "stdout": str(files[0]),
            "stderr": str(files[1]),
        }
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        status = stdout.readline()
        assert status, "the process that runs flows has ended"
        said, logged = (file.read_text() for file in files)
        heard(said + logged)
        return subprocess.CompletedProcess([flow], int(status), said, logged)

    def report(self, key: str) -> str:
        """The newest report with a key, from runs without a server."""
        return (self._reports / key).read_text()

    def upgrade(self, config: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Runs `upgrade`, asserts that it succeeds, and returns the last line of its output."""
        done = self("upgrade", config, **options)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])
