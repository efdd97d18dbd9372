"""No parameter, log, artifact or state that the Prefect server keeps contains a secret.

This holds for a run that loses the API server midway and finishes once it is back, too.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.helm.records import read_release
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.server.prefect_server import PrefectServer
from sandbox.cluster import Sandbox
from tests.support.flows import ConfigFactory, FlowRunner
from tests.support.prefect_servers import everything_kept

PASSPHRASE = "correct horse battery staple"
REGISTRY_PASSWORD = "s3cret-of-the-registry"
DASHBOARD_PASSWORD = "s3cret-of-the-dashboard"


def private_keys(cluster: Cluster, key_file: Path) -> list[str]:
    """The middle lines of every private key of the mesh, in the cluster and in the file."""
    texts = [key_file.read_text().partition("-----BEGIN ENCRYPTED")[2]]
    for secret in cluster.list("v1", "Secret"):
        data: dict[str, str] = secret.get("data") or {}
        texts += [
            base64.b64decode(value).decode() for key, value in data.items() if key.endswith(".key")
        ]
    lines = [line for text in texts for line in text.splitlines() if len(line) == 64]
    assert len(lines) >= 6
    return lines


@pytest.fixture
def secretive(
    fresh_sandbox: Callable[..., Sandbox], mesh_config: ConfigFactory, tmp_path: Path
) -> tuple[Sandbox, dict[str, Any], Path]:
    sandbox = fresh_sandbox()
    key_file = tmp_path / "keys/anchor.pem"
    config = mesh_config(
        sandbox,
        name="secretive",
        version="edge-26.8.3",
        trust_anchor={"key_file": str(key_file), "passphrase": PASSPHRASE},
        registry={"host": "r.example", "username": "u", "password": REGISTRY_PASSWORD},
        viz={"dashboard": {"host": "viz.example.com", "password": DASHBOARD_PASSWORD}},
    )
    return sandbox, config, key_file


def bootstrap_with_api_server_lost(
    sandbox: Sandbox, config: dict[str, Any], run_bootstrap: FlowRunner
) -> subprocess.CompletedProcess[str]:
    """Runs bootstrap, and stops the API server once the control plane's release has started."""
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
        return running.result(timeout=300)


def test_a_run_outlives_the_api_server_and_no_secret_is_kept_or_printed(
    secretive: tuple[Sandbox, dict[str, Any], Path],
    run_bootstrap: FlowRunner,
    prefect_server: PrefectServer,
) -> None:
    sandbox, config, key_file = secretive
    done = bootstrap_with_api_server_lost(sandbox, config, run_bootstrap)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1])["ok"]
    # A failing run logs tracebacks: the second one fails in the middle of the flow.
    broken = {**config, "trust_anchor": {**config["trust_anchor"], "passphrase": "wrong" * 4}}
    failed = run_bootstrap(broken, on_server=True)
    assert failed.returncode != 0
    assert json.loads(done.stdout.splitlines()[-1])["ok"]

    kept = everything_kept(prefect_server) + done.stdout + done.stderr
    kept += failed.stdout + failed.stderr
    assert "bootstrap secretive" in kept
    secrets = [PASSPHRASE, "wrong" * 4, REGISTRY_PASSWORD, DASHBOARD_PASSWORD]
    secrets += private_keys(sandbox.cluster(), key_file)
    secrets += user_keys(sandbox)
    for secret in secrets:
        assert secret not in kept


def user_keys(sandbox: Sandbox) -> list[str]:
    """The kubeconfig's credentials of its user."""
    return list(json.loads(sandbox.kubeconfig.read_text())["users"][0]["user"].values())
