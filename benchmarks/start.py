"""Measures how long a command takes until its first request reaches the API server.

    python -m benchmarks.start [--runs 5] [--kubectl PATH]

Each command runs in its own process, without a Prefect server, against a server that never
answers, and is killed once its first request arrives. The table shows the median seconds and CPU
seconds until then. If there is a `kubectl`, on PATH or from `--kubectl`, it alternates with each
command and the table shows the ratio, so that other work on the machine affects both. CPU time
depends less on other work.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tools.command_table import kubeconfig, silent

AIM = 3.0
"""Seconds within which a command begins its work, according to the README."""
COMMANDS = {
    "verify": ("verify",),
    "status": ("status",),
    "certificates": ("certificates",),
    "bootstrap --dry-run": ("bootstrap", "--dry-run", "--yes"),
}


def until_first_request(
    command: Sequence[str], reached: Callable[[], None], environment: dict[str, str]
) -> tuple[float, float]:
    """Returns the wall and CPU seconds from a command's start until it reaches the server.

    Raises:
        TimeoutError: no request arrived.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        reached()
        seconds = time.monotonic() - begin
    finally:
        process.kill()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return seconds, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kubectl", default=shutil.which("kubectl"), help="a kubectl binary")
    arguments = parser.parse_args()
    table = Table("command", "seconds", f"of {AIM:.0f} s", "CPU seconds", "kubectl x", "CPU x")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        charts = Path(__file__).parents[1] / "sandbox/charts"
        mesh = folder / "mesh.yaml"
        mesh.write_text(f"trust_anchor: {{custody: in-cluster}}\ncharts: {{mirror: {charts}}}\n")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        environment |= {"HOME": name, "XDG_STATE_HOME": name, "NO_PROXY": "127.0.0.1"}

        def measured(command: Sequence[str]) -> tuple[float, float]:
            # A server for each run, so that no late request of the previous run is counted.
            with silent() as (url, reached):
                access = {"KUBECONFIG": str(kubeconfig(folder / "kubeconfig", url))}
                return until_first_request(command, reached, environment | access)

        for words, given in COMMANDS.items():
            command = [sys.executable, "-m", "prefect_linkerd", *given, str(mesh)]
            # The first run fills the caches of Python and of the machine.
            measured(command)
            beside = [arguments.kubectl, "get", "pods"] if arguments.kubectl else None
            pairs = [
                (measured(command), measured(beside) if beside else None)
                for _ in range(arguments.runs)
            ]
            seconds, cpu = (median(ours[n] for ours, _ in pairs) for n in (0, 1))
            ratios = [
                f"{median(ours[n] / theirs[n] for ours, theirs in pairs if theirs):.1f}"
                for n in (0, 1)
                if beside
            ]
            share = f"{seconds / AIM:.0%}"
            table.add_row(words, f"{seconds:.2f}", share, f"{cpu:.2f}", *ratios)
    Console().print(table)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
