"""Runs `upgrade` once for each line of its standard input, and prints how each run ended.

    python -m tests.flows.run_upgrades MESH.json < LINES

A line is the flow's parameters as JSON, with `version`, what the mesh's block says. The answer is a
line of JSON too: `{"plan": …}` or `{"error": kind, "message": …}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flows.upgrade import upgrade
from mesh.errors import MeshError
from tasks.linkerd_mesh import LinkerdMesh


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    for line in sys.stdin:
        parameters = json.loads(line)
        mesh = LinkerdMesh.model_validate({**config, "version": parameters.pop("version")})
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
