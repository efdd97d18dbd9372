"""Runs `bootstrap`; with a step's name, kills its own process in the middle of that step.

    python -m tests.flows.run_bootstrap MESH.json [STEP]

In the middle is: right after the step's first write to the API server; two seconds into its
Helm release; for a step that only reads, after its first read.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from prefect.context import TaskRunContext

from flows.bootstrap import bootstrap
from mesh.cluster import Cluster
from mesh.helm import Helm
from tasks.linkerd_mesh import LinkerdMesh

READS_ONLY = {"preflight", "proof"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def current_step() -> str | None:
    context = TaskRunContext.get()
    return context.task_run.name if context else None


def is_in(step: str) -> bool:
    # Prefect names the run of a task without a run name of its own `task-xyz`.
    name = current_step() or ""
    return name == step or name.rsplit("-", 1)[0] == step


def kill_in(step: str) -> None:
    request, reconcile = Cluster.request, Helm.reconcile

    def dying_request(self: Cluster, method: str, path: str, **options: Any) -> Any:
        answer = request(self, method, path, **options)
        wrote = method != "GET" and "subjectaccessreviews" not in path
        if is_in(step) and (wrote or step in READS_ONLY):
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
    if len(sys.argv) > 2:
        kill_in(sys.argv[2])
    proof = bootstrap(LinkerdMesh.model_validate(config))
    print(json.dumps({"ok": proof.ok, "proxies": proof.proxies}))


if __name__ == "__main__":
    main()
