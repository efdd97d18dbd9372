"""The chart split killed at every step, there and back, and each time taken up by the next run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.helm import Helm
from mesh.upgrade_record import NAME as RECORD
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from sandbox.prefect_server import PrefectServer
from tests.flows.conftest import ConfigFactory, FlowRunner
from tests.flows.test_upgrade_walk import CUSTOM_RESOURCES, proxies, that_must_survive

SOURCE, TARGET = "stable-2.11.5", "stable-2.12.6"

# A step, and the number of its write to the API server after which the run is killed.
THERE = [
    ("record", 1),
    ("chart split", 1),  # the first revision of linkerd-crds is there, and owns nothing
    ("linkerd-crds", 1),
]
BACK = [
    ("way back", 2),  # some objects are linkerd2's again
    ("way back", 12),
]
AND_THERE = [
    ("chart split", 4),  # in the middle of the CRDs
    ("chart split", 20),  # in the middle of the control plane's objects
    ("linkerd-control-plane", 1),
    ("data plane", 1),
    ("end of the split", 1),
    ("end", 1),
]


@pytest.mark.timeout(1500)
def test_a_split_killed_anywhere_is_finished_or_undone_by_the_next_run(
    fresh_sandbox: Callable[..., Sandbox],
    mesh_config: ConfigFactory,
    run_bootstrap: FlowRunner,
    prefect_server: PrefectServer,
    binaries: Binaries,
    tmp_path: Path,
) -> None:
    sandbox = fresh_sandbox()
    cluster, helm = sandbox.cluster(), Helm(sandbox.cluster(), str(binaries.helm))
    config = mesh_config(
        sandbox,
        name="killed-split",
        version=SOURCE,
        viz={"enabled": False},
        traefik={"enabled": False},
        trust_anchor={
            "key_file": str(tmp_path / "anchor.pem"),
            "passphrase": "correct horse battery staple",
        },
    )
    assert run_bootstrap(config).returncode == 0
    for obj in CUSTOM_RESOURCES:
        cluster.create(obj)
    before = that_must_survive(cluster)
    path = tmp_path / "mesh.json"
    environment = os.environ | prefect_server.environment
    environment["PATH"] = os.pathsep.join([str(binaries.helm.parent), environment["PATH"]])

    def run(**parameters: Any) -> subprocess.CompletedProcess[str]:
        path.write_text(json.dumps(config))
        request = {"version": SOURCE, "to": TARGET, "accept": ["smi"], **parameters}
        done = subprocess.run(
            [sys.executable, "-m", "tests.flows.run_upgrades", str(path)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env=environment,
        )
        # Whatever happened: no CRD, no custom resource and no workload is lost or made anew, and
        # identity has the same issuer and trust bundle.
        assert before.items() <= that_must_survive(cluster).items()
        return done

    def killed(step: str, write: int, **parameters: Any) -> None:
        done = run(kill=[step, write], **parameters)
        assert done.returncode == -signal.SIGKILL, f"{step} {write}: {done.stderr[-3000:]}"

    for step, write in THERE:
        killed(step, write)
    for step, write in BACK:
        killed(step, write, go_back=True)
    answer = json.loads(run().stdout)
    assert (answer["error"], "a person said so" in answer["message"]) == ("UpgradeUndone", True)
    assert proxies(cluster) == {SOURCE}
    assert [release.name for release in helm.releases()] == ["linkerd2"]
    assert cluster.get("v1", "ConfigMap", RECORD, "linkerd") is None

    for step, write in AND_THERE:
        killed(step, write)
    last = run()
    assert json.loads(last.stdout)["done"], last.stderr[-3000:]
    assert proxies(cluster) == {TARGET}
    assert {(r.name, r.app_version, r.status) for r in helm.releases()} == {
        ("linkerd-crds", TARGET, "deployed"),
        ("linkerd-control-plane", TARGET, "deployed"),
    }
    assert cluster.get("v1", "ConfigMap", RECORD, "linkerd") is None
