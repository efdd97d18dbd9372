"""Runs `smoke_test`; with a word, kills its own process once an object of that kind is applied.

python -m tests.flows.run_smoke_test MESH.json OPTIONS.json [KIND]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from prefect_linkerd.flows.smoke_test import smoke_test
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.smoke.options import SmokeOptions
from prefect_linkerd.mesh.smoke.report import SmokeReport
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh


def kill_at(kind: str) -> None:
    apply = Cluster.apply

    def dying_apply(self: Cluster, obj: Object, **options: Any) -> Object:
        applied = apply(self, obj, **options)
        if obj["kind"] == kind:
            os.kill(os.getpid(), signal.SIGKILL)
        return applied

    Cluster.apply = dying_apply  # type: ignore[method-assign]


def main() -> None:
    mesh = LinkerdMesh.model_validate(json.loads(Path(sys.argv[1]).read_text()))
    options = SmokeOptions.model_validate(json.loads(Path(sys.argv[2]).read_text()))
    if len(sys.argv) > 3:
        kill_at(sys.argv[3])
    report = smoke_test(mesh, options)
    assert isinstance(report, SmokeReport)
    outcomes = {result.promise: [result.outcome, result.reason] for result in report.results}
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
