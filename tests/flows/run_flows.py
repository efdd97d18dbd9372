"""Runs flows, each in a process of its own: a fork of this one, which has imported everything.

    python -m tests.flows.run_flows < LINES

A line of standard input is a request as JSON: `flow` by name, `mesh`, `parameters`, perhaps a
fault (`kill`, `ill` or `lag`, with the arguments of `tests.flows.faults`), whether pods run on a
`LoopbackNode` (`loopback`), and the files that take the run's output. The line of the answer is the
exit status of the run's process, negative for a signal. What a run returns, or the error that it
raises, is the last line of its output, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from importlib import import_module
from typing import Any

from prefect_linkerd.mesh.bootstrap.installed import Installed
from prefect_linkerd.mesh.bootstrap.plan import BootstrapPlan
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.upgrade.plan import UpgradePlan
from prefect_linkerd.tasks.declared import declared_flows
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from tests.flows.faults import fall_ill, kill_in, lag_behind, lead_to_processes

FLOWS: dict[str, Any] = {
    name: getattr(import_module(f"prefect_linkerd.flows.{name}"), name) for name in declared_flows()
}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Runs a flow in this process."""
    if kill := request.get("kill"):
        kill_in(*kill)
    if ill := request.get("ill"):
        fall_ill(*ill)
    if lag := request.get("lag"):
        lag_behind(*lag)
    if request.get("loopback"):
        lead_to_processes()
    mesh = LinkerdMesh.model_validate(request["mesh"])
    try:
        if request["flow"] == "watch_charts":
            return {"new": FLOWS["watch_charts"](**request["parameters"])}
        returned: Any = FLOWS[request["flow"]](mesh, **request["parameters"])
    except MeshError as error:
        if request["flow"] == "bootstrap":
            raise
        return {"error": type(error).__name__, "message": str(error)}
    return answer(returned)


def answer(returned: Any) -> dict[str, Any]:
    if isinstance(returned, Installed):
        return {"ok": returned.ok, "proxies": returned.proxies}
    if isinstance(returned, BootstrapPlan):
        return {
            "done": returned.is_done,
            "findings": [finding.id for finding in returned.findings],
            "steps": {step.name: step.action for step in returned.steps},
        }
    if not isinstance(returned, UpgradePlan):
        return {"done": True}
    return {
        "source": returned.source,
        "target": returned.target,
        "done": returned.is_done,
        "findings": [finding.id for finding in returned.findings],
        "deleted": [each.subject for each in returned.objects if each.change == "delete"],
    }


def main() -> None:
    assert threading.active_count() == 1, "a thread is lost in a fork"
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, path in ((1, request["stdout"]), (2, request["stderr"])):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            print(json.dumps(run(request)), flush=True)
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
