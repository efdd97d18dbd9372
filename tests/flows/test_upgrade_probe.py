"""An upgrade whose requests fail goes back, and says which; then nothing of its probe is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_linkerd.mesh.probe.workloads import PROBE
from tests.support.flows import ConfigFactory, Flows
from tests.support.loopback import UNTRUSTED, DataPlane, LoopbackNode
from tests.support.ready_meshes import ReadyMesh
from tests.support.upgrades import HOPS, installed_alone, proxies

SOURCE, TARGET = HOPS[-1]


@pytest.mark.timeout(600)
def test_an_upgrade_whose_new_proxies_are_refused_goes_back(
    ready_mesh: ReadyMesh, mesh_config: ConfigFactory, flows: Flows, tmp_path: Path
) -> None:
    sandbox, config = installed_alone(ready_mesh, mesh_config, name="probed", version=SOURCE)
    cluster = sandbox.cluster()
    probe = {"replicas": 1, "requests_per_second": 50, "warm_up_seconds": 1}
    with DataPlane(cluster) as plane, LoopbackNode(cluster, tmp_path, plane):
        plane.breaks = {("before", "data-plane")}
        done = flows.upgrade(
            config, to=TARGET, probe=probe, restarts={"batch_size": 100}, loopback=True
        )
        assert done["error"] == "UpgradeUndone", done
        assert "0-before to 1-data-plane: " in done["message"]
        assert UNTRUSTED in done["message"]
        assert proxies(cluster) == {SOURCE}
        assert not list(cluster.list("v1", "Pod", "linkerd-probe", labels=PROBE.run_label))
