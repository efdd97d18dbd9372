"""What holds up a rollout, and when waiting for it is given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.kubernetes.stall import (
    CRASHES,
    LASTING,
    Outlook,
    Patience,
    Trouble,
    find_trouble,
    pod_trouble,
    refusal_remedy,
    refusals,
)

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
LINKERD_INIT = (
    'pods "web-5d8f-x2x9k" is forbidden: violates PodSecurity "restricted:latest": unrestricted '
    'capabilities (container "linkerd-init" must not include "NET_ADMIN", "NET_RAW" in '
    "securityContext.capabilities.add)"
)
QUOTA = 'pods "web-5d8f-x2x9k" is forbidden: exceeded quota: none, requested: pods=1'
POLICY = 'admission webhook "validate.kyverno.svc-fail" denied the request: no root'
AWAY = (
    'Internal error occurred: failed calling webhook "linkerd-proxy-injector.linkerd.io": refused'
)


def pod(
    name: str = "web-1", *, revision: str = "new", created: int = 0, **status: Any
) -> dict[str, Any]:
    labels = {"pod-template-hash": revision, "controller-revision-hash": revision}
    stamp = (NOW + timedelta(seconds=created)).isoformat()
    metadata = {"name": name, "namespace": "app", "labels": labels, "creationTimestamp": stamp}
    return {"metadata": metadata, "spec": {}, "status": {"phase": "Pending", **status}}


def waits(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    waiting = {"reason": reason, "message": message}
    return {"name": "web", "state": {"waiting": waiting}, **more}


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def workload(kind: str = "Deployment", **more: Any) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "app", "uid": "uid"}
    metadata["annotations"] = {"deployment.kubernetes.io/revision": "2"}  # type: ignore[assignment]
    return {"kind": kind, "metadata": metadata, "spec": {"replicas": 2}, "status": {}, **more}


def replica_set(revision: str, number: int, failure: str = "") -> dict[str, Any]:
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": failure,
    }
    return {
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"web-{revision}",
            "namespace": "app",
            "labels": {"pod-template-hash": revision},
            "annotations": {"deployment.kubernetes.io/revision": str(number)},
            "ownerReferences": [{"uid": "uid", "controller": True}],
        },
        "spec": {},
        "status": {"conditions": [condition] if failure else []},
    }


def event(kind: str, name: str, message: str, after: float = 1) -> dict[str, Any]:
    return {
        "reason": "FailedCreate",
        "involvedObject": {"kind": kind, "namespace": "app", "name": name},
        "lastTimestamp": (NOW + timedelta(seconds=after)).isoformat(),
        "message": message,
    }


@pytest.mark.parametrize(
    ("status", "outlook", "words"),
    [
        (waits("InvalidImageName", "bad:::name"), "hopeless", "InvalidImageName: bad:::name"),
        (waits("ErrImageNeverPull"), "hopeless", "ErrImageNeverPull"),
        (waits("ErrImagePull", "not found"), "lasting", "ErrImagePull: not found"),
        (waits("ImagePullBackOff", "Back-off"), "lasting", "ImagePullBackOff: Back-off"),
        (waits("CreateContainerConfigError", "no secret"), "lasting", "no secret"),
        (
            waits("CrashLoopBackOff", restartCount=3, lastState=ended(2, "panic\nno issuer\n")),
            "crashing",
            "CrashLoopBackOff after 3 restarts: it exited with 2: no issuer",
        ),
        (
            {"name": "web", "state": ended(137, reason="OOMKilled")},
            "crashing",
            "exited with 137 (OOMKilled)",
        ),
        (
            {"name": "web", "state": {"running": {}}, "restartCount": 1, "lastState": ended(1)},
            "crashing",
            "was restarted 1 time: it exited with 1",
        ),
    ],
)
def test_a_container_says_why_it_does_not_run(
    status: dict[str, Any], outlook: Outlook, words: str
) -> None:
    for key, word in (("initContainerStatuses", "init "), ("containerStatuses", "")):
        found = pod_trouble(pod(**{key: [status]}))
        assert found is not None
        assert found.outlook == outlook
        assert found.reason.startswith(f"{word}container web ")
        assert found.reason.endswith(words)


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_a_container_that_is_about_to_start_is_no_trouble(reason: str) -> None:
    starting = pod(containerStatuses=[waits(reason)])
    assert pod_trouble(starting) is None
    found = pod_trouble(starting, ["FailedMount: secret not found"])
    assert found is not None
    assert (found.outlook, found.reason) == ("passing", "FailedMount: secret not found")


def test_a_pod_without_a_node_is_waited_for() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    found = pod_trouble(pod(conditions=[{**condition, "message": "0/3 nodes"}]))
    assert found is not None
    assert (found.outlook, found.reason) == ("passing", "Unschedulable: 0/3 nodes")


def test_pods_of_the_revision_before_do_not_count() -> None:
    old = pod("old", revision="old", containerStatuses=[waits("InvalidImageName")])
    new = pod("new", containerStatuses=[waits("ErrImagePull")], created=5)
    sets = [replica_set("old", 1, QUOTA), replica_set("new", 2)]
    found = find_trouble(workload(), [old, new], sets)
    assert found is not None
    assert found.subject == "Pod/app/new"
    assert find_trouble(workload(), [old], sets) is None
    # The controller has not made the ReplicaSet of the new revision yet.
    assert find_trouble(workload(), [old], sets[:1]) is None
    stateful = workload("StatefulSet", status={"updateRevision": "new"})
    assert find_trouble(stateful, [old], []) is None
    daemon = workload("DaemonSet")
    found = find_trouble(daemon, [old, new], [])
    assert found is not None
    assert found.subject == "Pod/app/new"


@pytest.mark.parametrize(
    ("message", "outlook"),
    [(LINKERD_INIT, "hopeless"), (QUOTA, "passing"), (POLICY, "lasting"), (AWAY, "passing")],
)
def test_refused_pods_are_told_in_the_words_of_who_refuses_them(
    message: str, outlook: Outlook
) -> None:
    for kind, obj, sets in (
        ("ReplicaSet", workload(), [replica_set("new", 2, message)]),
        ("StatefulSet", workload("StatefulSet"), []),
        ("Job", workload("Job"), []),
    ):
        name = "web-new" if sets else "web"
        said = refusals([event(kind, name, message)])
        found = find_trouble(obj, [], sets, said, since=NOW)
        assert found is not None
        assert (found.subject, found.outlook) == (f"{kind}/app/{name}", outlook)
        assert message in found.reason
        # Somebody may have relaxed the namespace's level since then.
        old = refusals([event(kind, name, message, after=-60)])
        stale = find_trouble(obj, [], sets, old, since=NOW)
        assert stale is not None
        assert stale.outlook == "passing"


def test_an_old_refusal_gives_way_to_what_pods_say() -> None:
    said = refusals([event("StatefulSet", "web", QUOTA, after=-60)])
    there = pod(containerStatuses=[waits("ErrImagePull")])
    found = find_trouble(workload("StatefulSet"), [there], [], said, since=NOW)
    assert found is not None
    assert found.subject == "Pod/app/web-1"
    both = [there, pod("web-2")]
    assert find_trouble(workload("StatefulSet"), both[1:] * 2, [], said, since=NOW) is None


def test_the_remedy_is_for_what_admission_names() -> None:
    assert "cniEnabled" in refusal_remedy(LINKERD_INIT)
    assert "pod-security.kubernetes.io/enforce" in refusal_remedy(LINKERD_INIT)
    own = LINKERD_INIT.replace("linkerd-init", "web")
    assert "cniEnabled" not in refusal_remedy(own)
    assert "securityContext" in refusal_remedy(own)
    assert "ResourceQuota" in refusal_remedy(QUOTA)
    assert "cannot reach" in refusal_remedy(AWAY)


def trouble(outlook: Outlook, crashes: int = 0, *, is_down: bool = True) -> Trouble:
    return Trouble("Pod/app/web-1", "words", outlook, crashes=crashes, is_down=is_down)


def test_what_is_hopeless_is_over_at_once() -> None:
    assert Patience().is_over("web", trouble("hopeless"), 0)


def test_an_image_that_comes_late_is_waited_for() -> None:
    patience = Patience()
    assert not patience.is_over("web", trouble("lasting"), 0)
    assert not patience.is_over("web", trouble("lasting"), LASTING - 1)
    # The image arrived and another one is missing: the wait starts over.
    assert not patience.is_over("web", None, LASTING)
    assert not patience.is_over("web", trouble("lasting"), LASTING + 1)
    assert not patience.is_over("web", trouble("lasting"), 2 * LASTING)
    assert patience.is_over("web", trouble("lasting"), 2 * LASTING + 1)


@given(st.integers(0, 40), st.lists(st.integers(0, 2), max_size=20))
def test_a_crash_loop_ends_a_wait_only_by_a_crash_of_its_own(before: int, added: list[int]) -> None:
    patience, now, crashes = Patience(), 0.0, before
    assert not patience.is_over("web", trouble("crashing", crashes), now)
    for more in added:
        now, crashes = now + LASTING, crashes + more
        is_over = patience.is_over("web", trouble("crashing", crashes), now)
        assert is_over == (crashes > before and crashes >= CRASHES)
        assert not patience.is_over("web", trouble("crashing", crashes, is_down=False), now)


@given(st.floats(0, 10_000))
def test_what_may_pass_is_never_over(now: float) -> None:
    assert not Patience().is_over("web", trouble("passing"), now)
