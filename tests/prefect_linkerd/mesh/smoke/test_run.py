"""A smoke test removes all that it made, however it ends, and touches nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, NotReady
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.nodes import runs_pods
from prefect_linkerd.mesh.load import fuse as fuses
from prefect_linkerd.mesh.load.fuse import clear_leftovers, last_tended
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.smoke.options import SmokeOptions
from prefect_linkerd.mesh.smoke.run import SMOKE, SmokeRun
from prefect_linkerd.mesh.smoke.smoke_tests import entry_point, run_smoke_test
from sandbox.cluster import Sandbox
from tests.support.advice import follows

DYING = """
import os, signal, sys
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.load import fuse
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.smoke.options import SmokeOptions
from prefect_linkerd.mesh.smoke.run import SmokeRun
from prefect_linkerd.mesh.load.workloads import program
from pathlib import Path

fuse.FUSE_SECONDS = int(sys.argv[3])
cluster = Cluster.from_file(Path(sys.argv[1]))
options = SmokeOptions(namespace=sys.argv[2])
with SmokeRun(Mesh(cluster, MeshConfig()), options, "canary") as run:
    run.apply(program(run.name("program"), run.namespace))
    run.front("web", "stable")
    run.apply({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": run.name("stable"), "namespace": run.namespace},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": run.selector("stable")},
            "template": {
                "metadata": {"labels": run.selector("stable")},
                "spec": {"containers": [{"name": "c", "image": "example.com/c:1"}]},
            },
        },
    })
    print(run.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def die(sandbox: Sandbox, namespace: str, fuse_seconds: int = 120) -> str:
    """Runs a smoke test that is killed halfway; returns its id."""
    killed = subprocess.run(
        [sys.executable, "-c", DYING, str(sandbox.kubeconfig), namespace, str(fuse_seconds)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    return killed.stdout.strip()


def left(cluster: Cluster, namespace: str, run: str = "") -> list[str]:
    labels = f"{SMOKE.run_label}={run}" if run else SMOKE.run_label
    kinds = [
        ("batch/v1", "Job"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "ReplicaSet"),
        ("v1", "Service"),
        ("v1", "ConfigMap"),
        ("v1", "Pod"),
    ]
    return [
        f"{kind}/{obj['metadata']['name']}"
        for version, kind in kinds
        for obj in cluster.list(version, kind, namespace, labels=labels)
    ]


@pytest.fixture
def bystander(cluster: Cluster, namespace: str) -> Iterator[dict[str, Any]]:
    """An object of somebody else, named like ours."""
    yield cluster.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "smoke-00000000-program", "namespace": namespace},
        }
    )
    assert cluster.get("v1", "ConfigMap", "smoke-00000000-program", namespace) is not None


def start(cluster: Cluster, namespace: str) -> SmokeRun:
    return SmokeRun(Mesh(cluster, MeshConfig()), SmokeOptions(namespace=namespace), "canary")


@pytest.mark.usefixtures("bystander")
def test_everything_is_owned_and_gone_at_the_end_even_of_a_failed_test(
    cluster: Cluster, namespace: str
) -> None:
    run = start(cluster, namespace)

    def fail() -> None:
        with run:
            run.front("web", "stable")
            service = cluster.get("v1", "Service", run.name("web"), namespace)
            assert service is not None
            (owner,) = service["metadata"]["ownerReferences"]
            fuse = cluster.get("batch/v1", "Job", owner["name"], namespace)
            assert fuse is not None
            assert owner["uid"] == fuse["metadata"]["uid"]
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert left(cluster, namespace) == []


@pytest.mark.usefixtures("bystander")
def test_what_a_killed_run_left_is_removed_by_the_next(
    sandbox: Sandbox, cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = die(sandbox, namespace)
    assert len(left(cluster, namespace, dead)) >= 4
    monkeypatch.setattr(fuses, "SILENT_AFTER_SECONDS", 4)
    assert clear_leftovers(cluster, SMOKE, namespace) == [dead]
    assert left(cluster, namespace) == []
    assert clear_leftovers(cluster, SMOKE, namespace) == []


def test_without_a_next_run_kubernetes_itself_removes_it(
    sandbox: Sandbox, cluster: Cluster, namespace: str
) -> None:
    dead = die(sandbox, namespace, fuse_seconds=3)
    while left(cluster, namespace, dead):
        time.sleep(0.5)


def test_a_run_that_lives_keeps_its_objects_and_is_left_alone(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuses, "FUSE_SECONDS", 6)
    monkeypatch.setattr(fuses, "TEND_EVERY_SECONDS", 1.0)
    monkeypatch.setattr(fuses, "SILENT_AFTER_SECONDS", 5)
    with start(cluster, namespace) as run:
        run.front("web", "stable")
        until = time.monotonic() + 12
        while time.monotonic() < until:
            assert clear_leftovers(cluster, SMOKE, namespace) == []
            time.sleep(0.2)
        assert left(cluster, namespace, run.id) == [
            f"Job/smoke-{run.id}",
            f"Service/{run.name('web')}",
        ]
    assert left(cluster, namespace) == []


@follows("Run again.")
def test_a_run_whose_owner_was_taken_away_says_so(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuses, "TEND_EVERY_SECONDS", 0.2)
    with start(cluster, namespace) as run:
        cluster.delete("batch/v1", "Job", f"smoke-{run.id}", namespace)

        def go_on() -> None:
            while True:
                run.front("web", "stable")
                time.sleep(0.1)

        with pytest.raises(NotReady, match="owns everything that this run makes"):
            go_on()
    assert left(cluster, namespace) == []
    with start(cluster, namespace) as again:
        again.front("web", "stable")


@follows("Let bootstrap deploy emojivoto (emojivoto.enabled), or name another namespace in the")
def test_a_namespace_that_is_not_there_is_a_result_with_a_remedy(
    cluster: Cluster, namespace: str
) -> None:
    options = SmokeOptions(namespace="nowhere")
    with pytest.raises(InvalidInput, match="Namespace/nowhere"), start(cluster, "nowhere"):
        pass
    result = run_smoke_test("canary", Mesh(cluster, MeshConfig()), options)
    assert result.outcome == "failed"
    assert "Let bootstrap deploy emojivoto" in result.remedy
    with start(cluster, namespace):
        pass


def test_pods_without_a_proxy_fail_the_test_and_are_removed(
    cluster: Cluster, namespace: str
) -> None:
    """This cluster has no mesh, so no injector."""
    result = run_smoke_test(
        "load-balancing", Mesh(cluster, MeshConfig()), SmokeOptions(namespace=namespace)
    )
    assert result.outcome == "failed"
    assert "expected a container linkerd-proxy" in result.reason
    assert "webhook answers" in result.remedy
    assert left(cluster, namespace) == []


def test_a_split_that_the_cluster_does_not_serve_fails_with_what_to_do(
    cluster: Cluster, namespace: str
) -> None:
    result = run_smoke_test(
        "traffic-split",
        Mesh(cluster, MeshConfig(version="stable-2.11.5")),
        SmokeOptions(namespace=namespace),
    )
    assert result.outcome == "failed"
    assert "TrafficSplit split.smi-spec.io/v1alpha2" in result.reason
    assert "comes with chart linkerd2" in result.remedy


def node(runtime: str, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "n", "annotations": annotations or {}},
        "spec": spec,
        "status": {"nodeInfo": {"containerRuntimeVersion": runtime}},
    }


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([], False),
        ([node("simulated")], False),
        ([{"metadata": {"name": "n"}, "spec": {}}], False),
        ([node("containerd://2.1.4")], True),
        ([node("containerd://2.1.4", {"kwok.x-k8s.io/node": "fake"})], False),
        ([node("cri-o://1.33.1", unschedulable=True)], False),
        ([node("simulated"), node("docker://28.0.0")], True),
    ],
)
def test_whether_pods_run_is_seen_from_the_nodes(
    nodes: list[dict[str, Any]], expected: bool
) -> None:
    assert runs_pods(nodes) is expected


def test_the_sandbox_runs_no_pods(cluster: Cluster) -> None:
    assert not runs_pods(list(cluster.list("v1", "Node")))


def test_when_an_owner_was_last_tended() -> None:
    job: dict[str, Any] = {
        "metadata": {"creationTimestamp": "2026-01-01T10:00:00Z"},
        "spec": {"ttlSecondsAfterFinished": fuses.FUSE_SECONDS + 45},
    }
    assert last_tended(job) == datetime(2026, 1, 1, 10, 0, 0, tzinfo=UTC)
    job["status"] = {"completionTime": "2026-01-01T10:00:01Z"}
    assert last_tended(job) == datetime(2026, 1, 1, 10, 0, 46, tzinfo=UTC)


def traefik(namespace: str, *ports: tuple[str, int]) -> dict[str, Any]:
    return {
        "metadata": {"name": "traefik", "namespace": namespace},
        "spec": {"ports": [{"name": name, "port": port} for name, port in ports]},
    }


def test_traefiks_plain_port_is_found_in_its_own_namespace_first() -> None:
    services = [
        traefik("kube-system", ("web", 8000)),
        traefik("traefik", ("metrics", 9100), ("web", 80), ("websecure", 443)),
    ]
    url = entry_point(services, "traefik", "k8s.example.org")
    assert url == "http://traefik.traefik.svc.k8s.example.org:80/"
    assert entry_point(services[:1], "traefik", "cluster.local").endswith(".local:8000/")
    with pytest.raises(InvalidInput, match="give the existing Traefik's Service the label"):
        entry_point([traefik("traefik", ("websecure", 443))], "traefik", "cluster.local")
