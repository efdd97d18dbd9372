"""The API server goes away in the middle of `bootstrap` and comes back: the same run finishes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from prefect_linkerd.mesh.helm.records import read_release
from prefect_linkerd.server.prefect_server import PrefectServer
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support.flows import ConfigFactory


def test_a_run_outlives_the_api_server(
    fresh_sandbox: Callable[..., Sandbox],
    mesh_config: ConfigFactory,
    prefect_server: PrefectServer,
    binaries: Binaries,
    tmp_path: Path,
) -> None:
    sandbox = fresh_sandbox()
    config = mesh_config(sandbox, name="outlives", version="edge-26.8.3")
    path = tmp_path / "mesh.json"
    path.write_text(json.dumps(config))
    environment = os.environ | prefect_server.environment
    environment["PATH"] = os.pathsep.join([str(binaries.helm.parent), environment["PATH"]])
    cluster = sandbox.cluster()
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.flows.run_bootstrap", str(path)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        ) as run,
    ):
        deadline = time.monotonic() + 120
        while read_release(cluster, "linkerd-control-plane", "linkerd") is None:
            assert time.monotonic() < deadline
            assert run.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.1)
        sandbox.stop_apiserver()
        time.sleep(6)
        sandbox.start_apiserver()
        assert run.wait(timeout=300) == 0, (tmp_path / "log").read_text()[-4000:]
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["ok"]
