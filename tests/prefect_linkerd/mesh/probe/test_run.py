"""The probe's objects on a real API server, with exactly its role; none of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.deployments.grants import probe as probe_grants
from prefect_linkerd.deployments.roles import RBAC, rules
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import (
    ApiError,
    InvalidInput,
    NotReady,
    OwnershipConflict,
    PreflightFailed,
    RequestsFailed,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.load import fuse as fuses
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe import run as runs
from prefect_linkerd.mesh.probe.counts import SETTLED
from prefect_linkerd.mesh.probe.options import NAMESPACE, ProbeOptions
from prefect_linkerd.mesh.probe.run import SIMULATED, AskingProbe, start_probe
from prefect_linkerd.mesh.probe.workloads import PROBE
from prefect_linkerd.mesh.probe.workloads import namespace as probe_namespace
from prefect_linkerd.mesh.rotation.leaves import METRICS, LeafLifetimes, read_issued
from prefect_linkerd.mesh.snapshot.mesh import read_pods
from prefect_linkerd.mesh.snapshot.proxy_metrics import metrics_of
from sandbox.cluster import Sandbox
from tests.support.advice import follows
from tests.support.identities import as_account
from tests.support.loopback import UNTRUSTED, DataPlane, LoopbackNode, ThroughNode
from tests.support.ready_meshes import ReadyMesh

QUICK = ProbeOptions(replicas=1, requests_per_second=50, warm_up_seconds=1)


class RecordingCluster(Cluster):
    """Records requests, except the API's own discovery."""

    asked: tuple[str, ...] = ()

    def request(self, method: str, path: str, **options: Any) -> Any:
        if path != "/api/v1":
            self.asked += (f"{method} {path}",)
        return super().request(method, path, **options)


def asking(cluster: Cluster, said: list[str], **options: Any) -> AskingProbe:
    chosen = QUICK.model_copy(update=options)
    return AskingProbe(
        Mesh(cluster, MeshConfig()), chosen, say=said.append, on_progress=lambda *_: None
    )


def left(cluster: Cluster, place: str = NAMESPACE) -> list[str]:
    """The objects that probes have left behind."""
    return [
        f"{kind}/{obj['metadata']['name']}"
        for api_version, kind in PROBE.kinds
        for obj in cluster.list(api_version, kind, place, labels=PROBE.run_label)
    ]


def await_no_namespace(cluster: Cluster) -> None:
    deadline = time.monotonic() + 60
    while cluster.get("v1", "Namespace", NAMESPACE) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_on_simulated_nodes_it_says_so_and_asks_one_thing(sandbox: Sandbox) -> None:
    cluster = RecordingCluster.from_file(sandbox.kubeconfig)
    assert isinstance(cluster, RecordingCluster)
    probe = start_probe(Mesh(cluster, MeshConfig()), ProbeOptions())
    probe.arrive("spread")
    probe.check("spread")
    probe.leave("spread")
    probe.end()
    assert probe.outcome.sentence == f"no requests: {SIMULATED}"
    assert cluster.asked == ("GET /api/v1/nodes",)
    off = start_probe(Mesh(cluster, MeshConfig()), ProbeOptions(enabled=False))
    assert off.outcome.sentence == "no requests: the probe is off (probe.enabled)"
    assert len(cluster.asked) == 1


@follows("Check that the proxy injector runs and its webhook answers, ")
def test_pods_without_a_proxy_are_a_refusal_that_leaves_nothing(cluster: Cluster) -> None:
    """This cluster has no mesh, so no injector."""
    with pytest.raises(NotReady, match="expected a container linkerd-proxy") as refused:
        asking(cluster, []).start()
    assert "probe.enabled" in refused.value.remedy
    assert left(cluster) == []
    await_no_namespace(cluster)
    start_probe(Mesh(cluster, MeshConfig()), ProbeOptions(enabled=False)).end()


@follows("Name another namespace (probe.namespace), ")
def test_somebody_elses_namespace_is_never_written(cluster: Cluster, namespace: str) -> None:
    theirs = probe_namespace()
    release = {"meta.helm.sh/release-name": "probe", "meta.helm.sh/release-namespace": NAMESPACE}
    theirs["metadata"] |= {
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": release,
    }
    await_no_namespace(cluster)
    before = cluster.create(theirs)["metadata"]["uid"]
    try:
        with pytest.raises(OwnershipConflict, match="Helm release") as refused:
            asking(cluster, []).start()
        assert "probe.namespace" in refused.value.remedy
        found = cluster.get("v1", "Namespace", NAMESPACE)
        assert found is not None
        assert (found["metadata"]["uid"], found["metadata"]["annotations"]) == (before, release)
        assert left(cluster) == []
        # In another namespace it gets as far as on any cluster without an injector.
        with pytest.raises(NotReady, match="linkerd-proxy"):
            asking(cluster, [], namespace=namespace).start()
    finally:
        cluster.delete("v1", "Namespace", NAMESPACE)


@follows("Create it, or leave probe.namespace empty.")
def test_a_named_namespace_is_used_as_it_is_and_stays(cluster: Cluster, namespace: str) -> None:
    before = cluster.get("v1", "Namespace", namespace)
    with pytest.raises(NotReady, match="linkerd-proxy"):
        asking(cluster, [], namespace=namespace).start()
    assert cluster.get("v1", "Namespace", namespace) == before
    assert left(cluster, namespace) == []
    with pytest.raises(InvalidInput, match="Namespace/nowhere"):
        asking(cluster, [], namespace="nowhere").start()


def test_a_namespace_with_somebody_elses_object_in_it_stays(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await_no_namespace(cluster)
    said: list[str] = []
    probe = asking(cluster, said)

    def add(*_: object) -> None:
        metadata = {"name": "theirs", "namespace": NAMESPACE}
        cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        raise NotReady("x", expected="x", found="x", remedy="x")

    monkeypatch.setattr(probe, "arrive", add)
    with pytest.raises(NotReady):
        probe.start()
    assert cluster.get("v1", "ConfigMap", "theirs", NAMESPACE) is not None
    assert f"Namespace/{NAMESPACE} stays: ConfigMap/{NAMESPACE}/theirs is in it" in said
    cluster.delete("v1", "Namespace", NAMESPACE)


DYING = """
import os, signal, sys
from pathlib import Path
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe.options import ProbeOptions
from prefect_linkerd.mesh.probe.run import AskingProbe

class Dying(AskingProbe):
    def _settle(self, where):
        os.kill(os.getpid(), signal.SIGKILL)

    def _deploy(self, made, all_of_them):
        try:
            super()._deploy(made, all_of_them)
        except Exception:
            pass

ignore = lambda *_: None
cluster = Cluster.from_file(Path(sys.argv[1]))
mesh = Mesh(cluster, MeshConfig())
Dying(mesh, ProbeOptions(replicas=1), say=ignore, on_progress=ignore).start()
"""


def test_what_a_killed_run_left_is_removed_by_the_next(
    sandbox: Sandbox, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await_no_namespace(cluster)
    killed = subprocess.run(
        [sys.executable, "-c", DYING, str(sandbox.kubeconfig)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert {name.partition("/")[0] for name in left(cluster)} == {
        *("Job", "Deployment", "ReplicaSet", "Service", "ConfigMap", "Pod"),
    }
    monkeypatch.setattr(fuses, "SILENT_AFTER_SECONDS", 2)
    said: list[str] = []
    with pytest.raises(NotReady, match="linkerd-proxy"):
        asking(cluster, said).start()
    assert "its run died" in said[0]
    assert left(cluster) == []
    await_no_namespace(cluster)


def with_role(cluster: Cluster, *without: str) -> Cluster:
    """The cluster for an account with exactly a flow's grants for its probe, minus `without`."""
    cluster.apply(probe_namespace())
    granted = probe_grants(MeshConfig())
    name = "probe" + "".join(f"-{each.replace('/', '-')}" for each in without)
    account = {"name": name, "namespace": "default"}
    cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    for place in ("", NAMESPACE):
        scope = "" if place else "Cluster"
        metadata: Object = {"name": name} | ({"namespace": place} if place else {})
        said = [
            {**rule, "resources": [r for r in rule["resources"] if r not in without]}
            for rule in rules(granted, place)
        ]
        reference = {"apiGroup": RBAC, "kind": f"{scope}Role", "name": name}
        role = {"apiVersion": f"{RBAC}/v1", "metadata": metadata}
        kept = [rule for rule in said if rule["resources"]]
        cluster.apply({**role, "kind": f"{scope}Role", "rules": kept})
        cluster.apply(
            {
                **role,
                "kind": f"{scope}RoleBinding",
                "roleRef": reference,
                "subjects": [{"kind": "ServiceAccount", **account}],
            }
        )
    return as_account(cluster, "default", name)


def test_old_asks_new_and_new_asks_old_with_its_role_and_a_failing_pair_stops_it(
    ready_mesh: ReadyMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox, _ = ready_mesh("edge-26.8.3")
    admin = sandbox.cluster()
    said: list[str] = []
    with DataPlane(admin, sandbox.egress) as plane, LoopbackNode(admin, tmp_path, plane):
        with pytest.raises(PreflightFailed, match="may not get pods/proxy"):
            asking(with_role(admin, "pods/proxy"), said).start()
        with pytest.raises(PreflightFailed, match="list nodes"):
            start_probe(Mesh(with_role(admin, "nodes"), MeshConfig()), QUICK)
        assert left(admin) == []

        probe = asking(ThroughNode.of(with_role(admin)), said)
        probe.start()
        try:
            it_reads_other_proxies(probe, admin, plane, said)
            it_asks(probe, admin, plane, said)
            it_hears(probe, admin, monkeypatch)
        finally:
            probe.end()
        assert left(admin) == []
        # with_role made the namespace, not the probe.
        assert admin.get("v1", "Namespace", NAMESPACE) is not None


def it_reads_other_proxies(
    probe: AskingProbe, admin: Cluster, plane: DataPlane, said: list[str]
) -> None:
    """Reads the same as through the API server, for which its account has no permission."""
    cluster = probe._mesh.cluster
    pods = [pod for pod in read_pods(admin) if pod.proxy is not None and not probe.is_own(pod)]
    lifetimes = LeafLifetimes(frozenset({timedelta(hours=24)}))
    issued = read_issued(admin, pods, lifetimes)
    assert set(issued) == {pod.uid for pod in pods}
    with pytest.raises(ApiError, match="forbidden"):
        metrics_of(cluster, pods[0])
    assert read_issued(cluster, pods, lifetimes, probe.census) == issued
    # Proxies that do not answer the probe are asked through the API server, without another wait.
    egress, plane.egress = plane.egress, None
    assert read_issued(admin, pods, lifetimes, probe.census) == issued
    assert "Probe: its pods reach no proxy's metrics; using the API server instead." not in said
    assert read_issued(cluster, pods, lifetimes, probe.census) == {}
    assert said[-1] == "Probe: its pods reach no proxy's metrics; using the API server instead."
    plane.egress = egress
    assert probe.census(pods, METRICS, 1.0) == {}


def it_asks(probe: AskingProbe, admin: Cluster, plane: DataPlane, said: list[str]) -> None:
    assert set(probe.outcome.pairs) == {("0-before", "0-before")}
    probe.arrive("spread")
    pairs = probe.outcome.pairs
    old, new = "0-before", "1-spread"
    assert set(pairs) == {(old, old), (old, new), (new, old), (new, new)}
    assert all(count.ok >= SETTLED for count in pairs.values())
    assert all(count.identified == count.ok for count in pairs.values())
    own = [pod for pod in read_pods(admin) if probe.is_own(pod)]
    assert [probe.is_newest(pod) for pod in sorted(own, key=lambda pod: pod.name)] == [False, True]

    probe.leave("spread")
    assert {name for name in left(admin) if "0-before" in name} == set()
    assert probe.conclude("spread").endswith(", 0 failed")
    assert any(text.startswith("Probe, spread, after its restarts: p50 ") for text in said)

    # A server that lacks an anchor is never heard from.
    plane.breaks = {("spread", "switch")}
    with pytest.raises(RequestsFailed) as stopped:
        probe.arrive("switch")
    assert "1-spread to 2-switch: " in stopped.value.found
    assert f"503, l5d-proxy-error: {UNTRUSTED}" in stopped.value.found
    assert "2-switch to 1-spread" not in stopped.value.found
    plane.breaks = set()
    # On the way back it only counts and stops nothing.
    probe.only_count()
    probe.check("way back")
    assert probe.outcome.all.failed > 0


def it_hears(probe: AskingProbe, admin: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generation that cannot be heard stops the change as well."""
    cluster = probe._mesh.cluster
    assert isinstance(cluster, ThroughNode)
    monkeypatch.setattr(runs, "HEARD_WITHIN_SECONDS", 0.2)
    monkeypatch.setattr(probe, "_judges", True)
    pods = [pod.name for pod in read_pods(admin, NAMESPACE)]
    cluster.silent = frozenset(name for name in pods if "-1-spread-" in name)
    with pytest.raises(NotReady, match="through the API server's pod proxy") as unheard:
        probe.check("switch")
    assert "pods/proxy" in unheard.value.remedy
