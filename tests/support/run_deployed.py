"""Executes runs of deployments, each in a process of its own: a fork of this one.

    python -m tests.support.run_deployed < LINES

Runs `prefect.engine` as a process worker does, but without the worker's two wrapper processes and
with everything already imported. A line of standard input is `start RUN FILE`, where the file takes
the run's output; the answer is the process's id. The answer to `wait PID` is its exit status,
negative for a signal.
"""

from __future__ import annotations

import gc
import os
import runpy
import sys
import threading
from importlib import import_module

# What every run needs, apart from its flow.
import prefect.flow_engine  # noqa: F401

from prefect_linkerd.tasks.declared import declared_flows


def start(run: str, path: str) -> int:
    """Starts a run and returns its process id; in that process returns 0 once the run is over."""
    if child := os.fork():
        return child
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["PREFECT__FLOW_RUN_ID"] = run
    sys.argv = ["prefect.engine"]
    del sys.modules["prefect.engine"]
    runpy.run_module("prefect.engine", run_name="__main__")
    return 0


def main() -> None:
    for name in declared_flows():
        import_module(f"prefect_linkerd.flows.{name}")
    assert threading.active_count() == 1, "a thread is lost in a fork"
    # Runs neither search these imports for garbage nor copy their memory by doing so.
    gc.freeze()
    while line := sys.stdin.readline():
        match line.split():
            case ["start", run, path]:
                if not (answer := start(run, path)):
                    return
            case ["wait", pid]:
                answer = os.waitstatus_to_exitcode(os.waitpid(int(pid), 0)[1])
            case _:
                raise ValueError(line)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
