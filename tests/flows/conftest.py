"""A real Prefect server, and flows run as their users run them: in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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
            "profile": "demo",
            "emojivoto": {"manifest": str(shared_dir / "manifests/emojivoto.yml")},
            "timeout_seconds": 240,
            **config,
        }
        LinkerdMesh.model_validate(content)
        return content

    return configure


class Flows:
    """Runs flows, each in a process of its own (see `tests.flows.run_flows`)."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder
        self._runs = 0

    def __call__(
        self,
        flow: str,
        config: dict[str, Any],
        *,
        kill: tuple[str, int] | None = None,
        ill: tuple[str, int, str] | None = None,
        lag: tuple[str, str] | None = None,
        **parameters: Any,
    ) -> subprocess.CompletedProcess[str]:
        """One run to its end; `kill`, `ill` and `lag` are arguments of `tests.flows.faults`."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self._runs += 1
        files = tuple(self._folder / f"{self._runs}.{name}" for name in ("stdout", "stderr"))
        request = {
            "flow": flow,
            "mesh": config,
            "parameters": parameters,
            "kill": kill,
            "ill": ill,
            "lag": lag,
            "stdout": str(files[0]),
            "stderr": str(files[1]),
        }
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        status = stdout.readline()
        assert status, "the process that runs flows has ended"
        said, logged = (file.read_text() for file in files)
        return subprocess.CompletedProcess([flow], int(status), said, logged)

    def upgrade(self, config: dict[str, Any], **options: Any) -> dict[str, Any]:
        """A run of `upgrade` that is not killed: what it returned, or the error it raised."""
        done = self("upgrade", config, **options)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def flows(
    binaries: Binaries, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flows]:
    """Runs flows, with the Prefect server and helm of this test process."""
    environment = os.environ | prefect_server.environment
    environment["PATH"] = os.pathsep.join([str(binaries.helm.parent), environment["PATH"]])
    with subprocess.Popen(
        [sys.executable, "-m", "tests.flows.run_flows"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Flows(process, tmp_path_factory.mktemp("flows"))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)


@pytest.fixture
def run_bootstrap(flows: Flows) -> FlowRunner:
    """Runs the flow on a configuration; with a step and a number of writes it is killed there."""

    def run(config: dict[str, Any], *kill: Any) -> subprocess.CompletedProcess[str]:
        return flows("bootstrap", config, kill=kill or None)

    return run
