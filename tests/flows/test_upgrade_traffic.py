"""An upgrade whose workloads answer with errors, once they are restarted, goes back."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prefect_linkerd.mesh.records.upgrade import NAME
from tests.support.flows import ConfigFactory, Flows
from tests.support.meshes import add_workloads
from tests.support.ready_meshes import ReadyMesh
from tests.support.traffic import WatchedTraffic
from tests.support.upgrades import installed_alone, proxies, releases

SOURCE, TARGET = "edge-25.4.4", "edge-26.8.3"


def test_an_upgrade_goes_back_and_says_which_workload_fails_and_by_how_much(
    ready_mesh: ReadyMesh, mesh_config: ConfigFactory, flows: Flows, tmp_path: Path
) -> None:
    sandbox, config = installed_alone(
        ready_mesh, mesh_config, name="traffic", version=SOURCE, emojivoto={"enabled": False}
    )
    cluster = sandbox.cluster()
    add_workloads(cluster, 3)
    installed = {**releases(cluster), "linkerd-crds": None}
    with WatchedTraffic(sandbox.kubeconfig, "apps", {"app-0001": 0.2}) as traffic:
        kubeconfig = tmp_path / "watched"
        kubeconfig.write_text(json.dumps(traffic.kubeconfig))
        watched = {**config, "access": {"kubeconfig": str(kubeconfig)}}
        done = flows(
            "upgrade", watched, to=TARGET, restarts={"batch_size": 1, "traffic_seconds": 1}
        )

    undone = json.loads(done.stdout.splitlines()[-1])
    assert undone["error"] == "UpgradeUndone", done.stderr[-4000:]
    said = r"Deployment/apps/app-0001: (80|79)(\.\d+)?% of \d+ requests succeeded since the restart"
    assert re.search(said, undone["message"])
    # The one before it went well, and the next one was not begun.
    assert re.search(r"batch 1: 100% of \d+ requests succeeded before .*100% of", done.stderr)
    assert "batch 3" not in done.stderr.partition("rolls back")[0]
    # CRDs are not rolled back.
    assert {**releases(cluster), "linkerd-crds": None} == installed
    assert proxies(cluster) == {SOURCE}
    assert cluster.get("v1", "ConfigMap", NAME, "linkerd") is None
