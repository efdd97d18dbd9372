"""Two upgrades of one mesh at once, from wherever: the second is refused, unless the first died."""

from __future__ import annotations

from prefect_linkerd.mesh.records.rotation import RotationClaim
from tests.support.flows import ConfigFactory, Flows
from tests.support.ready_meshes import ReadyMesh
from tests.support.upgrades import HOPS, are_at, installed_alone, releases

SOURCE, TARGET = HOPS[2]
HOLDER = "flow run upgrade-elsewhere"


def test_a_mesh_is_upgraded_by_one_run_at_a_time(
    ready_mesh: ReadyMesh, mesh_config: ConfigFactory, flows: Flows
) -> None:
    sandbox, config = installed_alone(ready_mesh, mesh_config, name="claimed", version=SOURCE)
    cluster = sandbox.cluster()
    installed = releases(cluster)
    elsewhere = RotationClaim(cluster, "linkerd", HOLDER, 3)
    with elsewhere:
        refused = flows.upgrade(config, to=TARGET)
        assert refused["error"] == "MeshBusy", refused
        assert HOLDER in refused["message"]
        assert releases(cluster) == installed
        # Its plan can be read all the same.
        assert flows.upgrade(config, to=TARGET, dry_run=True)["target"] == TARGET
        # It dies: its lease is not renewed, and not given back either.
        elsewhere._over.set()
        elsewhere._thread.join()
        done = flows.upgrade(config, to=TARGET)
        assert (done.get("source"), done.get("target")) == (SOURCE, TARGET), done
        assert are_at(cluster, TARGET)
