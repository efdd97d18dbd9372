"""`bootstrap` is killed in the middle of every step, and the next run finishes each step."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from itertools import chain

from prefect_linkerd.mesh.bootstrap.run import stages
from prefect_linkerd.mesh.config.model import MeshConfig
from sandbox.cluster import Sandbox
from tests.support.flows import ConfigFactory, FlowRunner


def test_a_run_killed_at_any_step_is_finished_by_the_next(
    fresh_sandbox: Callable[..., Sandbox], mesh_config: ConfigFactory, run_bootstrap: FlowRunner
) -> None:
    sandbox = fresh_sandbox()
    cluster = sandbox.cluster()
    config = mesh_config(
        sandbox,
        name="killed",
        version="stable-2.14.10",
        issuer="cert-manager",
        trust_anchor={"custody": "in-cluster"},
        viz={"dashboard": {"host": "viz.example.com"}},
        # How long the next run waits for a Helm process whose run was killed.
        timeout_seconds=100,
    )

    anchors: set[str] = set()
    made = stages(MeshConfig.model_validate(config))
    for step in ("preflight", *chain.from_iterable(made), "verify"):
        # Steps that only read are killed after their first read, others after their first write.
        killed = run_bootstrap(config, step, int(step not in ("preflight", "verify")))
        assert killed.returncode == -signal.SIGKILL, f"{step}: {killed.stderr[-3000:]}"
        found = cluster.get("v1", "Secret", "linkerd-trust-anchor", "linkerd")
        anchors |= {found["data"]["tls.crt"]} if found else set()

    finished = run_bootstrap(config)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert json.loads(finished.stdout.splitlines()[-1])["ok"]
    # The trust anchor that the first run created is still the only one.
    assert len(anchors) == 1
