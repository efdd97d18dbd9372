"""Runs of deployments as a worker executes them, without a worker (see `run_deployed`)."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox.binaries import Binaries
from tests.support.repository import ROOT


@dataclass
class Executed:
    """The process of a run."""

    executor: Executor
    pid: int

    def wait(self, timeout: float) -> int:
        """Its exit status, negative for a signal."""
        return self.executor.ask(f"wait {self.pid}", timeout)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Executor:
    """Executes runs of a server's deployments, each in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, run: str, output: Path) -> Executed:
        return Executed(self, self.ask(f"start {run} {output}", 120))

    def ask(self, words: str, timeout: float) -> int:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{words}\n")
        stdin.flush()
        assert select.select([stdout], [], [], timeout)[0], f"{words}: {timeout:.0f} s are over"
        answer = stdout.readline()
        assert answer, "the process that executes runs has ended"
        return int(answer)


@contextmanager
def executor_for(server: dict[str, str], binaries: Binaries) -> Iterator[Executor]:
    """An executor with Helm on its PATH, on the server that the given environment names."""
    path = os.pathsep.join([str(binaries.helm.parent), os.environ["PATH"]])
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.run_deployed"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | server | {"PATH": path},
    ) as process:
        try:
            yield Executor(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)
