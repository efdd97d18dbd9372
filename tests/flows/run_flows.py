"""Runs flows, each in a process of its own: a fork of this one, with everything imported.

    python -m tests.flows.run_flows < LINES

A line of standard input is a request as JSON: `flow` by name, `mesh`, `parameters`, perhaps a
fault (`kill`, `kill_after`, `ill` or `lag`, with the arguments of `tests.flows.faults`), whether
pods run on a `LoopbackNode` (`loopback`), whether the run is on Prefect's server (`on_server`), and
the files that take the run's output. Without a server the flow runs as a command at a terminal, and
its reports are files in the folder `reports`. The answer is a line with the exit status of the
run's process, negative for a signal. What a run returns, or the error that it raises, is the last
line of its output, as JSON.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import sys
import threading
import traceback
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from prefect_linkerd.cli.at_terminal import LOGGER, AtTerminal, End
from prefect_linkerd.mesh.bootstrap.installed import Installed
from prefect_linkerd.mesh.bootstrap.plan import BootstrapPlan
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.helm.client import require_helm
from prefect_linkerd.mesh.smoke.report import SmokeReport
from prefect_linkerd.mesh.upgrade.plan import UpgradePlan
from prefect_linkerd.tasks.declared import declared_flows
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.outside import within
from prefect_linkerd.tasks.step import Step
from tests.flows.faults import (
    at_step,
    kill_after,
    kill_in,
    lag_behind,
    make_unready,
    route_to_pod_processes,
)

FLOWS: dict[str, Any] = {
    name: getattr(import_module(f"prefect_linkerd.flows.{name}"), name) for name in declared_flows()
}


class Reporting(AtTerminal):
    """A terminal that keeps reports by key, and tells `faults` the current step."""

    def __init__(self, flow: str, folder: str) -> None:
        super().__init__(flow)
        self._folder = Path(folder)

    def call(self, step: Step[Any, Any], *args: Any, **kwargs: Any) -> Any:
        with at_step(step, *args, **kwargs):
            return super().call(step, *args, **kwargs)

    def markdown(self, text: str, key: str, description: str) -> None:
        super().markdown(text, key, description)
        (self._folder / key).write_text(text)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Runs a flow in this process."""
    if kill := request.get("kill"):
        kill_in(*kill)
    if kind := request.get("kill_after"):
        kill_after(kind)
    if ill := request.get("ill"):
        make_unready(*ill)
    if lag := request.get("lag"):
        lag_behind(*lag)
    if request.get("loopback"):
        route_to_pod_processes()
    mesh = LinkerdMesh.model_validate(request["mesh"])
    flow = FLOWS[request["flow"]]
    parameters = request["parameters"]
    if request["flow"] != "watch_charts":
        parameters = {"mesh": mesh, **parameters}
    if request["on_server"]:
        surroundings = nullcontext()
    else:
        log = logging.StreamHandler()
        log.setFormatter(logging.Formatter("%(task_run_name)s: %(message)s"))
        LOGGER.addHandler(log)
        LOGGER.setLevel(logging.INFO)
        surroundings = within(Reporting(request["flow"], request["reports"]))
        # Prefect, and the command line, validate parameters before they call a flow.
        flow, parameters = flow.fn, flow.validate_parameters(parameters)
    try:
        with surroundings:
            returned: Any = flow(**parameters)
    except MeshError as error:
        if request["flow"] in ("bootstrap", "smoke_test"):
            raise
        return {"error": type(error).__name__, "message": str(error)}
    if request["flow"] == "watch_charts":
        return {"new": returned}
    return answer(returned.data if isinstance(returned, End) else returned)


def answer(returned: Any) -> dict[str, Any]:
    if isinstance(returned, Installed):
        return {"ok": returned.ok, "proxies": returned.proxies}
    if isinstance(returned, BootstrapPlan):
        return {
            "done": returned.is_done,
            "findings": [finding.id for finding in returned.findings],
            "steps": {step.name: step.action for step in returned.steps},
        }
    if isinstance(returned, SmokeReport):
        return {result.test: [result.outcome, result.reason] for result in returned.results}
    if not isinstance(returned, UpgradePlan):
        return {"done": True}
    return {
        "source": returned.source,
        "target": returned.target,
        "done": returned.is_done,
        "findings": [finding.id for finding in returned.findings],
        "deleted": [each.subject for each in returned.objects if each.change == "delete"],
    }


def answer_to(request: dict[str, Any]) -> int:
    """Prints a run's result or its error, and returns the exit status of its process."""
    try:
        print(json.dumps(run(request)))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def end_with(status: int) -> NoReturn:
    """Exits as the interpreter does, but without tearing down modules and objects.

    That would copy the parent's memory, which takes an eighth of a second of processor time.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    # Do the lookup here: otherwise each process repeats it.
    require_helm()
    for waiter in set(threading.enumerate()) - {threading.current_thread()}:
        waiter.join(timeout=10)
    assert threading.active_count() == 1, "a thread is lost in a fork"
    # Otherwise each fork's garbage collections, also at exit, would search all of this: one and a
    # half seconds of processor time per fork.
    gc.collect()
    gc.freeze()
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, path in ((1, request["stdout"]), (2, request["stderr"])):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            end_with(answer_to(request))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
