"""A rotation whose workloads answer with errors stops before the next batch and can resume."""

from __future__ import annotations

import re

import pytest

from prefect_linkerd.mesh.config.restart_policy import RestartPolicy
from prefect_linkerd.mesh.errors import TrafficDropped
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import RotationClaim
from prefect_linkerd.mesh.rotation.options import NewAnchor, RotationOptions
from prefect_linkerd.mesh.rotation.run import Rotation
from tests.support.advice import follows
from tests.support.meshes import quiet
from tests.support.ready_meshes import ReadyMesh
from tests.support.rotations import FAST, ring_of
from tests.support.traffic import WatchedTraffic

WATCHED = FAST.model_copy(update={"restarts": RestartPolicy(batch_size=1, traffic_seconds=1)})
AFTER = RestartPolicy(batch_size=1, traffic_seconds=1, max_success_drop=50)


@pytest.mark.waits
@follows(
    "Look at its log and its proxy's. Then run again: the rotation resumes with the next batch."
)
def test_a_drop_stops_before_the_next_batch_and_the_next_run_goes_on(
    ready_mesh: ReadyMesh, helm_path: str
) -> None:
    sandbox, config = ready_mesh("edge-26.8.3", workloads=3)
    helm = Helm(sandbox.cluster(), helm_path)

    with WatchedTraffic(sandbox.kubeconfig, "apps", {"app-0001": 0.2}) as traffic:
        cluster = Cluster(traffic.kubeconfig)

        def rotation(claim: RotationClaim, options: RotationOptions) -> Rotation:
            ring = ring_of(cluster, config)
            return Rotation(Mesh(cluster, config, helm), ring, claim, options)

        with RotationClaim(cluster, "linkerd", "first", 3) as claim:
            first = rotation(claim, WATCHED)
            first.begin(NewAnchor(), "rotate")
            first.bundle(quiet)
            with pytest.raises(TrafficDropped) as stopped:
                first.spread(quiet)
        assert stopped.value.subject == "Deployment/apps/app-0001"
        said = r"app-0001: (80|79)(\.\d+)?% of \d+ requests succeeded since the restart, 100% of"
        assert re.search(said, stopped.value.found)
        done = first.record.restarted["spread"]
        assert done[-2:] == ("Deployment/apps/app-0000", "Deployment/apps/app-0001")
        # The control plane's batches are also judged by the workloads' traffic.
        assert len(first.traffic) == len(done)
        assert not any(row.note for row in first.traffic)
        assert [bool(row.drops) for row in first.traffic] == [False] * (len(done) - 1) + [True]

        with RotationClaim(cluster, "linkerd", "second", 3) as claim:
            second = rotation(claim, FAST.model_copy(update={"restarts": AFTER}))
            assert second.next_phase() == "spread"
            second.spread(quiet)
            assert [row.workloads for row in second.traffic] == [("Deployment/apps/app-0002",)]
            assert second.next_phase() == "switch"
