"""Following the advice about pods that do not come up: then nothing holds them up.

`test_rollout.py` does this on real clusters; here are the cases that the sandbox cannot cause.
"""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.kubernetes.stall import Trouble, find_trouble, pod_trouble, refusals
from tests.prefect_linkerd.mesh.kubernetes.test_stall import (
    AWAY,
    LINKERD_INIT,
    NOW,
    POLICY,
    ended,
    event,
    pod,
    waits,
    workload,
)
from tests.support.advice import follows, follows_each

HEALTHY: dict[str, Any] = {"name": "web", "ready": True, "state": {"running": {}}}
CONTAINERS: dict[str, tuple[dict[str, Any], str]] = {
    "an image": (waits("ErrImagePull"), "Fix the image's name, its registry or the pull secret"),
    "a crash": (
        {"name": "web", "state": ended(1)},
        "Look at the container's log (kubectl logs --previous), fix its cause and run again.",
    ),
    "a missing Secret": (
        waits("CreateContainerConfigError", "secret x not found"),
        "Fix what the pods and events name, then run again.",
    ),
}


def advised(found: Trouble | None, words: str) -> None:
    assert found is not None
    assert found.remedy.startswith(words)


@follows_each(CONTAINERS, at=1)
def test_advice_about_a_container(case: str) -> None:
    status, words = CONTAINERS[case]
    advised(pod_trouble(pod(containerStatuses=[status])), words)
    assert pod_trouble(pod(containerStatuses=[HEALTHY])) is None


@follows("Make room on the nodes.")
def test_advice_about_a_pod_without_a_node() -> None:
    def scheduled(status: str) -> Trouble | None:
        return pod_trouble(pod(conditions=[{"type": "PodScheduled", "status": status}]))

    advised(scheduled("False"), "Make room on the nodes.")
    assert scheduled("True") is None


REFUSALS: dict[str, tuple[str, str]] = {
    "linkerd-init": (
        LINKERD_INIT,
        "Install Linkerd's CNI plugin and set cniEnabled in the control plane's values",
    ),
    "a policy": (
        POLICY,
        "Change what the admission webhook names, or exempt this workload from it.",
    ),
    "a webhook that does not answer": (
        AWAY,
        "Look at the pods of the webhook's Service: the API server cannot reach it.",
    ),
    "something else": ("pods is forbidden: no such account", "Fix what the message names."),
}


@follows_each(REFUSALS)
def test_advice_about_pods_that_are_refused(case: str) -> None:
    message, words = REFUSALS[case]
    of = workload("StatefulSet")

    def found(*pods: dict[str, Any]) -> Trouble | None:
        said = refusals([event("StatefulSet", "web", message)])
        return find_trouble(of, pods, [], said, since=NOW)

    advised(found(), words)
    # Once they are admitted there are as many as the workload wants.
    assert found(*(pod(f"web-{n}", containerStatuses=[HEALTHY]) for n in range(2))) is None
