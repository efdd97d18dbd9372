"""`bootstrap` killed in the middle of every step, each time finished by the next run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sandbox.cluster import Sandbox
from sandbox.prefect_server import PrefectServer
from tests.flows.conftest import MeshFactory

STEPS = [
    "preflight",
    "namespaces",
    "trust anchor",
    "linkerd-crds",
    "cert-manager",
    "issuer",
    "linkerd-control-plane",
    "linkerd-viz",
    "emojivoto",
    "traefik",
    "ingress",
    "proof",
]


def test_a_run_killed_at_any_step_is_finished_by_the_next(
    fresh_sandbox: Callable[..., Sandbox],
    mesh_on: MeshFactory,
    prefect_server: PrefectServer,
    tmp_path: Path,
) -> None:
    sandbox = fresh_sandbox()
    cluster = sandbox.cluster()
    mesh = mesh_on(
        sandbox,
        name="killed",
        version="stable-2.14.10",
        issuer="cert-manager",
        trust_anchor={"custody": "in-cluster"},
        viz={"dashboard": {"host": "viz.example.com"}},
    )
    config = tmp_path / "mesh.json"
    config.write_text(mesh.model_dump_json(exclude={"credentials"}))

    def run(*step: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.flows.killed", str(config), *step],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            env=os.environ | prefect_server.environment,
        )

    anchors: set[str] = set()
    for step in STEPS:
        killed = run(step)
        assert killed.returncode == -signal.SIGKILL, f"{step}: {killed.stderr[-3000:]}"
        found = cluster.get("v1", "Secret", "linkerd-trust-anchor", "linkerd")
        anchors |= {found["data"]["tls.crt"]} if found else set()

    finished = run()
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert json.loads(finished.stdout.splitlines()[-1]) == {"ok": True}
    # The root of trust that the first run made is still the one.
    assert len(anchors) == 1
