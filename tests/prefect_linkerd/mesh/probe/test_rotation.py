"""A rotation with its probe: a failing pair stops it before the next batch; it then resumes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from prefect_linkerd.mesh.errors import RequestsFailed
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe.options import ProbeOptions
from prefect_linkerd.mesh.probe.run import AskingProbe
from prefect_linkerd.mesh.probe.workloads import PROBE
from prefect_linkerd.mesh.records.rotation import read_record
from prefect_linkerd.mesh.restarts import RestartPolicy
from prefect_linkerd.mesh.rotation.trust_bundle import read_trust_bundle
from prefect_linkerd.mesh.snapshot.mesh import read_pods
from tests.support.advice import follows
from tests.support.invariant import Invariant
from tests.support.loopback import UNTRUSTED, DataPlane, LoopbackNode, ThroughNode
from tests.support.ready_meshes import ReadyMesh
from tests.support.rotations import FAST, await_lease, rotate
from tests.support.waiting import eventually

OPTIONS = FAST.model_copy(
    update={
        "probe": ProbeOptions(replicas=1, requests_per_second=50, warm_up_seconds=1),
        # Two batches of workloads.
        "restarts": RestartPolicy(batch_size=2),
    }
)


class RecordingCluster(ThroughNode):
    """Records which pod ports were asked for metrics."""

    ports: ClassVar[list[str]] = []

    def request(self, method: str, path: str, **options: Any) -> Any:
        if found := re.search(r":(\d+)/proxy/metrics", path):
            self.ports.append(found[1])
        return super().request(method, path, **options)


def started(cluster: Cluster) -> dict[str, str]:
    """The UIDs of the workloads' pods, by their owners' names."""
    return {pod.owner[2]: pod.uid for pod in read_pods(cluster, namespace="apps") if pod.owner}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    return {name for name, uid in before.items() if now[name] != uid}


@pytest.mark.timeout(300)
@follows(
    "Run verify_mesh and fix what it names, then run again: it resumes from the cluster's state."
)
def test_a_failing_pair_stops_a_rotation_before_the_next_batch(
    ready_mesh: ReadyMesh, helm_path: str, tmp_path: Path
) -> None:
    sandbox, config = ready_mesh("edge-26.8.3", workloads=4)
    admin = sandbox.cluster()
    before = started(admin)
    assert len(before) == 4
    said: list[str] = []
    with (
        DataPlane(admin, sandbox.egress) as plane,
        LoopbackNode(admin, tmp_path, plane),
    ):
        cluster = RecordingCluster.of(admin)

        def break_in_the_first_batch(text: str) -> None:
            """From here on the old generation's proxy refuses the new one's certificate."""
            if text.startswith("Probe, spread, before batch 1: "):
                plane.breaks = {("before", "spread")}

        def probe(say: Callable[[str], None]) -> AskingProbe:
            made = AskingProbe(
                Mesh(cluster, config), OPTIONS.probe, say=say, on_progress=lambda *_: None
            )
            made.start()
            return made

        first = probe(break_in_the_first_batch)
        try:
            with pytest.raises(RequestsFailed) as stopped:
                rotate(cluster, config, helm_path, options=OPTIONS, probe=first)
        finally:
            first.end()
        assert "0-before to 1-spread: " in stopped.value.found
        assert UNTRUSTED in stopped.value.found
        # Only the first batch was restarted.
        record = read_record(admin, "linkerd")
        assert record is not None
        assert record.phase == "spread"
        restarted = {name.rpartition("/")[2] for name in record.restarted["spread"]}
        assert len(restarted) == 2
        # Their old pods may linger for a moment.
        eventually(lambda: changed(before, started(admin)) == restarted, 60)
        assert not list(admin.list("v1", "Pod", "linkerd-probe", labels=PROBE.run_label))

        plane.breaks = set()
        await_lease(admin)
        second = probe(said.append)
        try:
            with Invariant(sandbox):
                phases = rotate(cluster, config, helm_path, options=OPTIONS, probe=second)
        finally:
            second.end()
        assert phases == ["spread", "switch", "drop", "done"]
        record = read_record(admin, "linkerd")
        assert record is not None
        assert read_trust_bundle(Mesh(admin, config)).anchors == {record.goal}
        told = [chapter.text for chapter in record.story if chapter.text.startswith("Probe")]
        # The first run's chapter of phase bundle, the second's of its three phases and the total.
        assert len(told) == 5
        assert all(text.endswith(" 0 failed.") for text in told)
        # Old and new asked each other, and there was no other pair. The generation started when the
        # run resumed already trusts both anchors, so spread has no generation of its own.
        names = ("0-before", "1-switch", "2-drop")
        met = {(a, b) for n, a in enumerate(names) for b in names[max(n - 1, 0) : n + 2]}
        assert set(second.outcome.pairs) == met
        assert not list(admin.list("v1", "Pod", "linkerd-probe", labels=PROBE.run_label))
        assert not [
            name for names in record.restarted.values() for name in names if "linkerd-probe" in name
        ]
        # Only the probe's pods read the proxies' metrics.
        assert set(RecordingCluster.ports) == {"8081"}
        # Each batch was gated.
        assert any(text.startswith("Probe, switch, before batch 2: ") for text in said)
