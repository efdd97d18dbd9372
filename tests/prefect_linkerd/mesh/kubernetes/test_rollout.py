"""Whether a workload has rolled out, and what is reported when it has not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
import yaml

from prefect_linkerd.mesh.errors import NotReady
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.rollout import (
    FEW,
    await_rollouts,
    next_look,
    rollout_status,
)
from tests.support.advice import follows
from tests.support.waiting import eventually
from tests.support.workloads import deployment


def obj(kind: str, spec: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"generation": 2}, "spec": spec, "status": status}


SEEN = {"observedGeneration": 2}


@pytest.mark.parametrize(
    ("kind", "spec", "status", "complete"),
    [
        ("Deployment", {"replicas": 0}, {**SEEN}, True),
        ("Deployment", {}, {}, False),
        (
            "Deployment",
            {"replicas": 2},
            {**SEEN, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
            True,
        ),
        (
            "Deployment",
            {"replicas": 2},
            {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
            False,
        ),
        (
            "Deployment",
            {"replicas": 2},
            {**SEEN, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 3},
            False,
        ),
        (
            "StatefulSet",
            {"replicas": 1},
            {**SEEN, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
            False,
        ),
        (
            "StatefulSet",
            {"replicas": 1, "updateStrategy": {"type": "OnDelete"}},
            {**SEEN, "readyReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
            True,
        ),
        (
            "DaemonSet",
            {},
            {
                **SEEN,
                "desiredNumberScheduled": 3,
                "numberAvailable": 3,
                "updatedNumberScheduled": 2,
            },
            False,
        ),
        ("Job", {"completions": 2}, {"succeeded": 2}, True),
        ("Job", {}, {}, False),
    ],
)
def test_when_a_workload_is_rolled_out(
    kind: str, spec: dict[str, Any], status: dict[str, Any], complete: bool
) -> None:
    assert rollout_status(obj(kind, spec, status)).is_complete is complete


def test_an_exceeded_deadline_and_a_failed_job_are_failures() -> None:
    late = {"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "too late"}
    assert rollout_status(obj("Deployment", {}, {"conditions": [late]})).failure == "too late"
    failed = {"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}
    assert rollout_status(obj("Job", {}, {"conditions": [failed]})).failure


USUAL = 10.0


@pytest.mark.parametrize(
    ("passed", "usual", "seconds"),
    [
        (0, 0, 0.5),
        (100, 0, 0.5),
        # Not done yet, but somebody may be watching the progress.
        (0, USUAL, 5),
        (5, USUAL, 3),
        (7.9, USUAL, 0.5),
        (100, USUAL, 0.5),
        # A rollout that usually takes a second is checked more often towards its end.
        (0, 1, 0.8),
        (1, 1, 0.1),
    ],
)
def test_rollouts_are_looked_at_when_they_may_be_done(
    passed: float, usual: float, seconds: float
) -> None:
    assert next_look(passed, usual, 0.5) == pytest.approx(seconds)


def test_rollouts_that_take_the_usual_time_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = Workload("Deployment", "apps", "web")
    done = obj("Deployment", {"replicas": 0}, SEEN)
    done["metadata"] |= {"name": "web", "namespace": "apps"}
    looks: list[float] = []
    begin = time.monotonic()

    def read(_cluster: Cluster, _workloads: object) -> tuple[dict[Workload, Any], dict[Any, Any]]:
        looks.append(time.monotonic() - begin)
        late = obj("Deployment", {"replicas": 1}, {})
        late["metadata"] |= done["metadata"]
        return {workload: done if looks[-1] > 0.3 else late}, {}

    monkeypatch.setattr("prefect_linkerd.mesh.kubernetes.rollout._read", read)
    await_rollouts(cast("Cluster", None), [workload], 60, lambda *_: None, usual=0.4)
    assert len(looks) == 1


class Watched:
    """A cluster whose watch reports Deployments as rolled out one after the other."""

    def __init__(self, count: int) -> None:
        self.watches = 0
        self.there = [self.deployment(f"web-{n}", {}) for n in range(count)]

    def list_to_watch(self, *_: str) -> tuple[list[dict[str, Any]], str]:
        return self.there, "7"

    def watch(
        self, _version: str, _kind: str, _namespace: str, version: str, _seconds: int
    ) -> Iterator[dict[str, Any]]:
        assert version == "7"
        self.watches += 1
        yield self.deployment("another", {})
        for late in self.there:
            yield self.deployment(late["metadata"]["name"], SEEN)
        raise AssertionError("nobody has to wait for more")

    @staticmethod
    def deployment(name: str, status: dict[str, Any]) -> dict[str, Any]:
        made = obj("Deployment", {"replicas": 0}, status)
        made["metadata"] |= {"name": name, "namespace": "apps"}
        return made


def test_many_rollouts_are_followed_from_the_first_look_on() -> None:
    cluster = Watched(FEW + 1)
    workloads = [Workload("Deployment", "apps", f"web-{n}") for n in range(FEW + 1)]
    said: list[tuple[int, int]] = []
    await_rollouts(
        cast("Cluster", cluster), workloads, 60, lambda ready, all_, _: said.append((ready, all_))
    )
    assert cluster.watches == 1
    assert said == [(FEW + 1, FEW + 1)]


def test_what_is_rolled_out_already_is_not_watched() -> None:
    cluster = Watched(FEW + 1)
    cluster.there = [Watched.deployment(f"web-{n}", SEEN) for n in range(FEW + 1)]
    workloads = [Workload.of(each) for each in cluster.there]
    await_rollouts(cast("Cluster", cluster), workloads, 60, lambda *_: None)
    assert cluster.watches == 0


@follows("Fix what the pods and events name, then run again.")
def test_a_failure_names_the_pod_its_reason_and_events(cluster: Cluster, namespace: str) -> None:
    annotations = {"sandbox.prefect-linkerd/ready": "false"}
    cluster.create(deployment("bad", namespace, annotations=annotations))
    with pytest.raises(NotReady) as failed:
        await_rollouts(
            cluster, [Workload("Deployment", namespace, "bad")], 3, lambda *_: None, every=0.2
        )
    text = str(failed.value)
    assert text.startswith(f"Deployment/{namespace}/bad: expected to be rolled out within 3 s")
    assert f"Pod/{namespace}/bad-" in text
    assert "ContainersNotReady" in text
    assert "Scheduled: Successfully assigned" in text
    fixed(cluster, namespace, "bad")


def fixed(cluster: Cluster, namespace: str, name: str) -> None:
    """Removes what keeps a Deployment's pods from getting ready; it then comes up."""
    annotations = {**dict.fromkeys(waiting("")), "tests/again": "1"}
    patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    cluster.merge("apps/v1", "Deployment", name, namespace, patch)
    comes_up(cluster, Workload("Deployment", namespace, name))


def comes_up(cluster: Cluster, workload: Workload) -> None:
    await_rollouts(cluster, [workload], 60, lambda *_: None, every=0.2)


def waiting(reason: str) -> dict[str, str]:
    """Annotations that make a sandbox pod's containers wait with this reason."""
    return {
        "sandbox.prefect-linkerd/ready": "false",
        "sandbox.prefect-linkerd/waits": reason,
    }


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_linkerd.mesh.kubernetes.rollout.SETTLES", 0.5)


@pytest.mark.usefixtures("soon")
def test_an_image_that_is_not_there_is_told_while_it_is_waited_for(
    cluster: Cluster, namespace: str
) -> None:
    cluster.create(
        deployment("big", namespace, replicas=3, annotations=waiting("ImagePullBackOff"))
    )
    said: list[str] = []
    with pytest.raises(NotReady) as late:
        await_rollouts(
            cluster,
            [Workload("Deployment", namespace, "big")],
            4,
            lambda _ready, _wanted, text: said.append(text),
            every=0.2,
        )
    assert any(
        text.startswith(f"waiting for big; Pod/{namespace}/big-")
        and text.endswith("container big ImagePullBackOff: simulated")
        for text in said
    ), said
    # Three replicas do not repeat it three times.
    assert str(late.value).count("container big ImagePullBackOff") == 1
    assert "pull secret" in late.value.remedy


@follows("Fix the image's name, its registry or the pull secret, then run again.")
@pytest.mark.usefixtures("soon")
def test_a_wait_ends_early_where_nothing_will_come(cluster: Cluster, namespace: str) -> None:
    cluster.create(deployment("bad", namespace, annotations=waiting("InvalidImageName")))
    begin = time.monotonic()
    with pytest.raises(NotReady, match="InvalidImageName: simulated; waiting longer") as late:
        await_rollouts(
            cluster, [Workload("Deployment", namespace, "bad")], 60, lambda *_: None, every=0.2
        )
    assert time.monotonic() - begin < 30
    assert late.value.expected == "to be rolled out"
    fixed(cluster, namespace, "bad")


RESTRICTED = """
securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
containers:
  - securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"""


@follows("Set the securityContext that admission asks for, or ")
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_pod_security_ends_a_wait_with_its_own_words(
    cluster: Cluster, namespace: str, kind: str
) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.merge("v1", "Namespace", namespace, None, {"metadata": {"labels": labels}})
    obj = deployment("web", namespace)
    if kind == "StatefulSet":
        obj["kind"] = kind
        obj["spec"]["serviceName"] = "web"
    cluster.create(obj)
    with pytest.raises(NotReady, match='violates PodSecurity "restricted:latest"') as late:
        await_rollouts(cluster, [(kind, namespace, "web")], 60, lambda *_: None, every=0.2)
    assert "waiting longer does not help" in late.value.found
    assert "securityContext" in late.value.remedy
    if kind == "Deployment":
        spec = yaml.safe_load(RESTRICTED)
        spec["containers"][0] |= {"name": obj["spec"]["template"]["spec"]["containers"][0]["name"]}
        patch = {"spec": {"template": {"spec": spec}}}
        kind_ = "application/strategic-merge-patch+json"
        path = cluster.path("apps/v1", kind, namespace, "web")
        cluster.request("PATCH", path, body=patch, content_type=kind_)
    else:
        labels = {"pod-security.kubernetes.io/enforce": "baseline"}
        cluster.merge("v1", "Namespace", namespace, None, {"metadata": {"labels": labels}})
        # As when somebody runs it again.
        cluster.delete("apps/v1", kind, "web", namespace)
        eventually(lambda: cluster.get("apps/v1", kind, "web", namespace) is None)
        cluster.create(obj)
    comes_up(cluster, (kind, namespace, "web"))


@follows("Raise the ResourceQuota, or make room below it.")
@pytest.mark.usefixtures("soon")
def test_pods_that_are_refused_are_explained_by_the_replica_set(
    cluster: Cluster, namespace: str
) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": namespace},
        "spec": {"hard": {"pods": "0"}},
    }
    cluster.create(quota)
    cluster.create(deployment("big", namespace))
    with pytest.raises(NotReady, match="exceeded quota"):
        await_rollouts(
            cluster, [Workload("Deployment", namespace, "big")], 4, lambda *_: None, every=0.2
        )
    cluster.merge("v1", "ResourceQuota", "none", namespace, {"spec": {"hard": {"pods": "9"}}})
    # The controller tries a new ReplicaSet at once, but retries the old one only after a while.
    fixed(cluster, namespace, "big")


@follows("Run again.")
def test_a_workload_that_is_gone_is_named(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(NotReady, match=f"Deployment/{namespace}/none"):
        await_rollouts(cluster, [Workload("Deployment", namespace, "none")], 0, lambda *_: None)
    cluster.create(deployment("none", namespace))
    comes_up(cluster, Workload("Deployment", namespace, "none"))
