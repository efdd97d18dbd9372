"""Pods that started without a proxy are found by their workload and restarted."""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.install.injection import (
    RESTARTED_AT,
    ensure_meshed,
    should_be_meshed,
    unmeshed,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.objects import Workload, owner_of_pod
from prefect_linkerd.mesh.kubernetes.rollout import await_rollouts
from tests.support.workloads import deployment


def quiet(_ready: int, _wanted: int, _text: str) -> None:
    pass


def with_proxy(workload: dict[str, Any]) -> dict[str, Any]:
    workload["spec"]["template"]["spec"]["containers"].append(
        {"name": "linkerd-proxy", "image": "example.com/proxy"}
    )
    return workload


def test_only_what_lacks_its_proxy_is_restarted(cluster: Cluster, namespace: str) -> None:
    cluster.create(deployment("bare", namespace))
    cluster.create(with_proxy(deployment("meshed", namespace)))
    cluster.create(deployment("apart", namespace, annotations={"linkerd.io/inject": "disabled"}))
    names = ("bare", "meshed", "apart")
    await_rollouts(cluster, [Workload("Deployment", namespace, name) for name in names], 60, quiet)
    assert unmeshed(cluster, namespace) == [Workload("Deployment", namespace, "bare")]
    assert Workload("Deployment", namespace, "bare") in unmeshed(cluster)

    # No injector serves this namespace, so the restarts happen without adding proxies.
    restarted = ensure_meshed(cluster, namespace, 60, quiet)

    assert set(restarted) == {Workload("Deployment", namespace, "bare")}
    for name in names:
        found = cluster.get("apps/v1", "Deployment", name, namespace)
        assert found is not None
        annotations = found["spec"]["template"]["metadata"].get("annotations", {})
        assert (RESTARTED_AT in annotations) == (name == "bare")


def test_jobs_and_what_is_over_need_no_proxy() -> None:
    pod: dict[str, Any] = {"metadata": {}, "spec": {}, "status": {"phase": "Running"}}
    assert should_be_meshed(pod)
    assert not should_be_meshed({**pod, "status": {"phase": "Succeeded"}})
    assert not should_be_meshed({**pod, "status": {"phase": "Failed"}})
    assert not should_be_meshed({**pod, "metadata": {"ownerReferences": [{"kind": "Job"}]}})
    assert not should_be_meshed({**pod, "metadata": {"deletionTimestamp": "now"}})


def test_a_pod_names_the_workload_that_makes_it() -> None:
    def owned_by(kind: str, name: str, **labels: str) -> dict[str, Any]:
        owner = {"kind": kind, "name": name, "controller": True}
        return {"namespace": "app", "labels": labels, "ownerReferences": [owner]}

    deployed = owned_by("ReplicaSet", "web-5d4f", **{"pod-template-hash": "5d4f"})
    assert owner_of_pod(deployed) == Workload("Deployment", "app", "web")
    # A ReplicaSet that no Deployment made keeps its own name.
    assert owner_of_pod(owned_by("ReplicaSet", "web")) == Workload("ReplicaSet", "app", "web")
    assert owner_of_pod(owned_by("StatefulSet", "db")) == Workload("StatefulSet", "app", "db")
    assert owner_of_pod({"namespace": "app"}) is None
