"""Pods that came up without a proxy are found by their workload, and restarted."""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.install.injection import (
    RESTARTED_AT,
    ensure_meshed,
    should_be_meshed,
    unmeshed,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.objects import Workload
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

    # No injector looks at this namespace, so the restarts change nothing but are made.
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
    assert not should_be_meshed({**pod, "metadata": {"ownerReferences": [{"kind": "Job"}]}})
    assert not should_be_meshed({**pod, "metadata": {"deletionTimestamp": "now"}})
