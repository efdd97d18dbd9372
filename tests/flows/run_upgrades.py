"""Runs `upgrade` once for each line of its standard input, and prints how each run ended.

    python -m tests.flows.run_upgrades MESH.json < LINES

A line is the flow's parameters as JSON, with `version`, what the mesh's block says, and perhaps
`kill`: a step's name and the number of its write to the API server after which the process kills
itself (in a Helm release: two seconds into it). The answer is a line of JSON too.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

from flows.upgrade import upgrade
from mesh.cluster import Cluster
from mesh.errors import MeshError
from mesh.helm import Helm
from tasks.linkerd_mesh import LinkerdMesh
from tests.flows.run_bootstrap import die, is_in


def kill_after(step: str, writes: int) -> None:
    request, reconcile = Cluster.request, Helm.reconcile
    count, lock = 0, threading.Lock()

    # Some requests are made by a step's own threads, where Prefect's context is not.
    begun = threading.Event()

    def dying_request(self: Cluster, method: str, path: str, **options: Any) -> Any:
        nonlocal count
        if is_in(step):
            begun.set()
        answer = request(self, method, path, **options)
        is_write = method != "GET" and "dryRun" not in (options.get("query") or {})
        if is_write and "subjectaccessreviews" not in path and begun.is_set():
            with lock:
                count += 1
                if count >= writes:
                    die()
        return answer

    def dying_reconcile(self: Helm, *args: Any, **options: Any) -> Any:
        if not is_in(step):
            return reconcile(self, *args, **options)
        threading.Timer(2.0, die).start()
        outcome = reconcile(self, *args, **options)
        die()
        return outcome

    Cluster.request = dying_request  # type: ignore[method-assign]
    Helm.reconcile = dying_reconcile  # type: ignore[method-assign]


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    for line in sys.stdin:
        parameters = json.loads(line)
        mesh = LinkerdMesh.model_validate({**config, "version": parameters.pop("version")})
        if kill := parameters.pop("kill", None):
            kill_after(*kill)
        try:
            plan = upgrade(mesh, **parameters)
        except MeshError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        else:
            answer = {
                "source": plan.source,
                "target": plan.target,
                "done": plan.is_done,
                "findings": [finding.id for finding in plan.findings],
            }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
