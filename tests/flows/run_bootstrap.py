"""Runs `bootstrap` as a user's script would.

python -m tests.flows.run_bootstrap MESH.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from prefect_linkerd.flows.bootstrap import bootstrap
from prefect_linkerd.mesh.bootstrap.installed import Installed
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh


def main() -> None:
    done = bootstrap(LinkerdMesh.model_validate(json.loads(Path(sys.argv[1]).read_text())))
    assert isinstance(done, Installed)
    print(json.dumps({"ok": done.ok, "proxies": done.proxies}))


if __name__ == "__main__":
    main()
