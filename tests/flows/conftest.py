"""A real Prefect server, and flows run as their users run them: in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from sandbox.prefect_server import PrefectServer
from tasks.linkerd_mesh import LinkerdMesh

ConfigFactory = Callable[..., dict[str, Any]]
FlowRunner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mesh_config(charts_dir: Path, shared_dir: Path) -> ConfigFactory:
    """Configures a mesh on a sandbox, with charts and manifests of the mirror."""

    def configure(sandbox: Sandbox, **config: Any) -> dict[str, Any]:
        content = {
            "access": {"kubeconfig": str(sandbox.kubeconfig)},
            "charts": {"mirror": str(charts_dir)},
            "emojivoto_manifest": str(shared_dir / "manifests/emojivoto.yml"),
            "timeout_seconds": 240,
            **config,
        }
        LinkerdMesh.model_validate(content)
        return content

    return configure


@pytest.fixture
def run_bootstrap(binaries: Binaries, prefect_server: PrefectServer, tmp_path: Path) -> FlowRunner:
    """Runs the flow on a configuration; with a step's name it is killed in the middle of it."""

    def run(config: dict[str, Any], *step: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "mesh.json"
        path.write_text(json.dumps(config))
        environment = os.environ | prefect_server.environment
        environment["PATH"] = os.pathsep.join([str(binaries.helm.parent), environment["PATH"]])
        return subprocess.run(
            [sys.executable, "-m", "tests.flows.run_bootstrap", str(path), *step],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env=environment,
        )

    return run
