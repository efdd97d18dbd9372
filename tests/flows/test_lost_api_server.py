"""The API server goes away in the middle of `bootstrap` and comes back: the same run finishes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from prefect_linkerd.mesh.helm.records import read_release
from sandbox.cluster import Sandbox
from tests.support.flows import ConfigFactory, FlowRunner


def test_a_run_outlives_the_api_server(
    fresh_sandbox: Callable[..., Sandbox],
    mesh_config: ConfigFactory,
    run_bootstrap: FlowRunner,
) -> None:
    sandbox = fresh_sandbox()
    config = mesh_config(sandbox, name="outlives", version="edge-26.8.3", viz={"enabled": False})
    cluster = sandbox.cluster()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run_bootstrap, config, on_server=True)
        deadline = time.monotonic() + 120
        while read_release(cluster, "linkerd-control-plane", "linkerd") is None:
            assert time.monotonic() < deadline
            assert not running.done(), running.result().stderr[-3000:]
            time.sleep(0.1)
        sandbox.stop_apiserver()
        time.sleep(6)
        sandbox.start_apiserver()
        done = running.result(timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1])["ok"]
