"""Which workloads are restarted, in which batches, and only while everything is healthy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.errors import NotReady
from prefect_linkerd.mesh.install.injection import RESTARTED_AT
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.rollout import await_rollouts
from prefect_linkerd.mesh.kubernetes.selector import matches
from prefect_linkerd.mesh.restarts import (
    ATTEMPTS,
    SETTLINGS,
    STAGES,
    Batch,
    Budget,
    DataPlane,
    ManualRestart,
    Restarted,
    RestartPolicy,
    RestartTarget,
    plan_restarts,
    read_data_plane,
    restart_data_plane,
    target_of,
    usual_seconds,
)
from prefect_linkerd.mesh.snapshot.mesh import Pod, pod_of
from tests.support.advice import advice, follows

CONTROL_PLANE = "linkerd"
EXTENSION = "linkerd-viz"


def pod(name: str, owner: Workload | None, *, deleting: bool = False) -> Pod:
    found = pod_of(
        {
            "metadata": {"namespace": owner[1] if owner else "app", "name": name, "uid": name},
            "spec": {"containers": [{"name": "linkerd-proxy"}]},
        }
    )
    return replace(found, owner=owner, is_deleting=deleting)


def target(name: str, namespace: str = "app", **changes: Any) -> RestartTarget:
    fields: dict[str, Any] = {
        "workload": Workload("Deployment", namespace, name),
        "pod_labels": {"app": name},
        "disruption": 1,
        "waves": 1,
        "is_complete": True,
    }
    return RestartTarget(**(fields | changes))


def budget(name: str, **changes: Any) -> Budget:
    fields: dict[str, Any] = {
        "namespace": "app",
        "name": name,
        "selector": {},
        "allowed": 1,
        "healthy": 5,
        "expected": 5,
    }
    return Budget(**(fields | changes))


def data_plane(
    *targets: RestartTarget,
    budgets: tuple[Budget, ...] = (),
    pods: tuple[Pod, ...] | None = None,
) -> DataPlane:
    made = tuple(pod(f"{t.workload[1]}-{t.workload[2]}-0", t.workload) for t in targets)
    return DataPlane(
        control_plane=CONTROL_PLANE,
        extensions=frozenset({EXTENSION}),
        pods=made if pods is None else pods,
        targets={t.workload: t for t in targets},
        budgets=budgets,
    )


def every(_: Pod) -> bool:
    return True


def names(plan: Any) -> list[list[str]]:
    return [[workload[2] for workload in batch.workloads] for batch in plan.batches]


# The plan


def test_the_control_plane_comes_first_one_by_one_then_extensions_then_the_rest() -> None:
    plan = plan_restarts(
        data_plane(
            target("web"),
            target("tap", EXTENSION),
            target("linkerd-destination", CONTROL_PLANE),
            target("linkerd-identity", CONTROL_PLANE),
            target("api", "zoo"),
        ),
        every,
        RestartPolicy(),
    )
    assert names(plan) == [["linkerd-identity"], ["linkerd-destination"], ["tap"], ["web", "api"]]
    assert [batch.reason for batch in plan.batches] == [
        "first",
        "the control plane one workload at a time",
        "extensions after the control plane",
        "workloads after the extensions",
    ]
    assert [batch.stage for batch in plan.batches] == [
        "control plane",
        "control plane",
        "extensions",
        "workloads",
    ]


def test_named_namespaces_come_first_and_one_after_the_other() -> None:
    plan = plan_restarts(
        data_plane(target("a", "one"), target("b", "two"), target("c", "three")),
        every,
        RestartPolicy(namespaces=("two", "three")),
    )
    assert names(plan) == [["b"], ["c"], ["a"]]
    assert plan.batches[1].reason == "namespace three after two"


def test_only_what_needs_it_is_restarted() -> None:
    plan = plan_restarts(
        data_plane(target("old"), target("new")),
        lambda pod: pod.owner is not None and pod.owner[2] == "old",
        RestartPolicy(),
    )
    assert names(plan) == [["old"]]


def test_a_pod_that_is_deleted_already_is_no_reason_to_restart() -> None:
    web = target("web")
    gone = pod("web-0", web.workload, deleting=True)
    assert plan_restarts(data_plane(web, pods=(gone,)), every, RestartPolicy()).batches == ()


def test_one_that_still_rolls_is_waited_for_unless_known_to_be_unwell() -> None:
    rolling = target("web", is_complete=False)
    plan = plan_restarts(data_plane(rolling), every, RestartPolicy())
    assert (plan.batches, plan.settling) == ((), (rolling.workload,))
    known = plan_restarts(
        data_plane(rolling), every, RestartPolicy(), tolerated=frozenset({rolling.workload})
    )
    assert names(known) == [["web"]]


def test_what_a_restart_cannot_do_is_left_to_a_person() -> None:
    deployment = target("web")
    pods = (
        pod("bare", None),
        pod("job-0", Workload("Job", "app", "job")),
        pod("orphan", Workload("Deployment", "app", "gone")),
        pod("web-0", deployment.workload),
    )
    plan = plan_restarts(
        data_plane(
            deployment,
            target("set", obstacle="its update strategy is OnDelete"),
            pods=(*pods, pod("set-0", Workload("Deployment", "app", "set"))),
        ),
        every,
        RestartPolicy(),
    )
    assert names(plan) == [["web"]]
    assert [each.subject for each in plan.manual] == [
        "Deployment/app/set",
        "Pod/app/bare",
        "Pod/app/job-0",
        "Pod/app/orphan",
    ]
    assert "Job/app/job owns it" in plan.manual[2].reason


def test_a_budget_that_never_allows_it_is_for_a_person_one_that_will_is_waited_for() -> None:
    web = target("web", disruption=2)
    never = plan_restarts(data_plane(web, budgets=(budget("b"),)), every, RestartPolicy())
    assert never.manual == (
        ManualRestart(
            "Deployment/app/web",
            "its update removes 2 pods at once and PodDisruptionBudget/app/b allows 1: "
            "loosen one of the two, or restart it manually",
        ),
    )
    later = plan_restarts(
        data_plane(web, budgets=(budget("b", healthy=4),)), every, RestartPolicy()
    )
    assert names(later) == [["web"]]


def test_an_update_that_takes_nothing_away_asks_no_budget() -> None:
    plan = plan_restarts(
        data_plane(
            target("one", disruption=0),
            target("two", disruption=0),
            budgets=(budget("b", allowed=0),),
        ),
        every,
        RestartPolicy(),
    )
    assert names(plan) == [["one", "two"]]


def test_the_time_is_estimated_by_waves_and_pauses() -> None:
    plan = plan_restarts(
        data_plane(target("a", waves=3), target("b"), target("c", waves=2)),
        every,
        RestartPolicy(batch_size=2),
    )
    assert plan.seconds(RestartPolicy(pause_seconds=5), seconds_per_pod=10) == 30 + 20 + 5


targets = st.builds(
    lambda index, namespace, disruption, complete, obstacle: target(
        f"w{index}",
        namespace,
        disruption=disruption,
        is_complete=complete,
        obstacle=obstacle,
        pod_labels={"group": str(index % 3)},
    ),
    st.integers(0, 30),
    st.sampled_from([CONTROL_PLANE, EXTENSION, "app", "shop", "zoo"]),
    st.integers(0, 4),
    st.booleans(),
    st.sampled_from(["", "", "", "OnDelete"]),
)
budgets = st.builds(
    lambda index, namespace, group, allowed, healthy: budget(
        f"b{index}",
        namespace=namespace,
        selector={"matchLabels": {"group": group}} if group else {},
        allowed=allowed,
        healthy=healthy,
    ),
    st.integers(0, 5),
    st.sampled_from(["app", "shop", EXTENSION]),
    st.sampled_from(["", "0", "1", "2"]),
    st.integers(0, 6),
    st.integers(4, 5),
)
policies = st.builds(
    RestartPolicy,
    batch_size=st.integers(1, 7),
    max_unavailable=st.none() | st.integers(1, 6),
    namespaces=st.lists(st.sampled_from(["app", "shop", "zoo"]), unique=True).map(tuple),
)


@given(st.lists(targets, unique_by=lambda t: t.workload), st.lists(budgets, max_size=4), policies)
def test_every_plan_keeps_its_bounds_and_forgets_nothing(
    found: list[RestartTarget], over: list[Budget], policy: RestartPolicy
) -> None:
    plane = data_plane(*found, budgets=tuple(over))
    plan = plan_restarts(plane, every, policy)

    restarted = [workload for batch in plan.batches for workload in batch.workloads]
    manual = {each.subject for each in plan.manual}
    rest = set(plan.settling)
    assert len(restarted) == len(set(restarted))
    assert {t.subject for t in found} == (
        {"/".join(w) for w in restarted} | manual | {"/".join(w) for w in rest}
    )
    stages = [STAGES.index(batch.stage) for batch in plan.batches]
    assert stages == sorted(stages)
    for batch in plan.batches:
        assert len(batch.targets) <= (1 if batch.stage == "control plane" else policy.batch_size)
        taken = sum(t.disruption for t in batch.targets)
        if policy.max_unavailable is not None and len(batch.targets) > 1:
            assert taken <= policy.max_unavailable
        for each in over:
            asked = [t.disruption for t in batch.targets if each.covers(t) and t.disruption]
            # A single workload may have to wait for the budget; a larger batch never exceeds it.
            assert sum(asked) <= each.allowed or len(asked) == 1
    ranks = [
        policy.namespaces.index(w[1]) if w[1] in policy.namespaces else len(policy.namespaces)
        for batch in plan.batches
        if batch.stage == "workloads"
        for w in batch.workloads
    ]
    assert all(one <= other for one, other in pairwise(ranks))


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "api"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "other", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "other", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_a_budget_selects_pods_as_kubernetes_does(selector: dict[str, Any], selected: bool) -> None:
    assert matches(selector, {"app": "web"}) is selected


@pytest.mark.parametrize(
    ("kind", "spec", "status", "disruption", "waves", "obstacle"),
    [
        ("Deployment", {"replicas": 1}, {}, 0, 1, ""),
        ("Deployment", {"replicas": 10}, {}, 2, 2, ""),
        ("Deployment", {"replicas": 3, "strategy": {"type": "Recreate"}}, {}, 3, 1, ""),
        (
            "Deployment",
            {
                "replicas": 4,
                "strategy": {"rollingUpdate": {"maxUnavailable": 2, "maxSurge": "50%"}},
            },
            {},
            2,
            1,
            "",
        ),
        ("Deployment", {"replicas": 1, "paused": True}, {}, 0, 1, "paused"),
        ("StatefulSet", {"replicas": 3}, {}, 1, 3, ""),
        ("StatefulSet", {"updateStrategy": {"type": "OnDelete"}}, {}, 1, 1, "OnDelete"),
        (
            "StatefulSet",
            {"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 2}}},
            {},
            1,
            3,
            "partition",
        ),
        ("DaemonSet", {}, {"desiredNumberScheduled": 5}, 1, 5, ""),
        (
            "DaemonSet",
            {"updateStrategy": {"rollingUpdate": {"maxSurge": 2}}},
            {"desiredNumberScheduled": 5},
            0,
            3,
            "",
        ),
    ],
)
def test_what_an_update_strategy_takes_away(
    kind: str,
    spec: dict[str, Any],
    status: dict[str, Any],
    disruption: int,
    waves: int,
    obstacle: str,
) -> None:
    found = target_of(
        {
            "kind": kind,
            "metadata": {"namespace": "n", "name": "w"},
            "spec": {"template": {"metadata": {}}, **spec},
            "status": status,
        }
    )
    assert (found.disruption, found.waves) == (disruption, waves)
    assert obstacle in found.obstacle
    assert bool(found.obstacle) == bool(obstacle)


# On an API server


def meshed(kind: str, name: str, namespace: str, mesh: str, **spec: Any) -> dict[str, Any]:
    """A workload whose pods look injected; no injector runs on the shared sandbox."""
    labels = {"app": name, "linkerd.io/control-plane-ns": mesh}
    if kind == "Deployment":
        labels["linkerd.io/proxy-deployment"] = name
    extra: dict[str, Any] = {"serviceName": name} if kind == "StatefulSet" else {}
    if kind != "DaemonSet":
        extra["replicas"] = 2
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "linkerd-proxy", "image": "example.com/proxy:1"}]},
            },
            **extra,
            **spec,
        },
    }


def not_made_since(before: set[str]) -> Callable[[DataPlane], Callable[[Pod], bool]]:
    return lambda _: lambda pod: pod.uid in before


def test_a_data_plane_is_restarted_and_what_is_done_stays_done(
    cluster: Cluster, namespace: str
) -> None:
    for obj in (
        meshed("Deployment", "web", namespace, namespace),
        meshed("StatefulSet", "db", namespace, namespace),
        meshed("DaemonSet", "agent", namespace, namespace),
        meshed("StatefulSet", "hand", namespace, namespace, updateStrategy={"type": "OnDelete"}),
    ):
        cluster.create(obj)

    def read() -> DataPlane:
        return read_data_plane(cluster, namespace)

    deadline = time.monotonic() + 60
    while not (len(found := read().targets) == 4 and all(t.is_complete for t in found.values())):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    before = {pod.uid for pod in read().pods}
    seen: list[tuple[int, int, str]] = []
    batches: list[tuple[Workload, ...]] = []

    class Killed(Exception):
        pass

    def die_before_the_second(batch: Any) -> None:
        batches.append(batch.workloads)
        if len(batches) == 2:
            raise Killed

    with pytest.raises(Killed):
        restart_data_plane(
            cluster,
            read,
            not_made_since(before),
            RestartPolicy(),
            timeout=60,
            on_progress=lambda *line: seen.append(line),
            before_batch=die_before_the_second,
        )
    done = restart_data_plane(
        cluster,
        read,
        not_made_since(before),
        RestartPolicy(),
        timeout=60,
        on_progress=lambda *line: seen.append(line),
    )

    # The namespace plays the control plane's, so each workload is a batch of its own.
    assert batches[0] == (Workload("DaemonSet", namespace, "agent"),)
    assert {w[2] for w in done.workloads} == {"web", "db"}
    assert [each.subject for each in done.manual] == [f"StatefulSet/{namespace}/hand"]
    after = [pod for pod in read().pods if not pod.is_deleting]
    assert {pod.owner[2] for pod in after if pod.owner and pod.uid in before} == {"hand"}
    agent = cluster.get("apps/v1", "DaemonSet", "agent", namespace)
    assert agent is not None
    assert RESTARTED_AT in agent["spec"]["template"]["metadata"]["annotations"]
    assert agent["metadata"]["generation"] == 2
    assert seen[-1] == (2, 2, "all restarted")


@pytest.mark.parametrize("needed", [ATTEMPTS + 1, ATTEMPTS + 2])
def test_what_still_needs_a_restart_is_restarted_again(
    needed: int, cluster: Cluster, namespace: str
) -> None:
    """As often as it may be; what was restarted last is judged like the others."""
    cluster.create(meshed("Deployment", "web", namespace, namespace, replicas=1))
    workload = Workload("Deployment", namespace, "web")
    await_rollouts(cluster, [workload], 60, lambda *_: None)
    restarts: list[Batch] = []

    def restart() -> Restarted:
        return restart_data_plane(
            cluster,
            lambda: read_data_plane(cluster, namespace),
            lambda _: lambda _: len(restarts) < needed,
            RestartPolicy(),
            timeout=60,
            on_progress=lambda *_: None,
            before_batch=restarts.append,
        )

    if needed <= ATTEMPTS + 1:
        assert restart().workloads == (workload,) * needed
    else:
        with pytest.raises(NotReady, match="still need one, after 3 more"):
            restart()
    assert len(restarts) == ATTEMPTS + 1


@follows("Find out what keeps changing it, or why its pods fail")
def test_advice_about_a_workload_that_never_settles(cluster: Cluster, namespace: str) -> None:
    cluster.create(meshed("Deployment", "web", namespace, namespace, replicas=1))
    workload = Workload("Deployment", namespace, "web")
    await_rollouts(cluster, [workload], 60, lambda *_: None)
    reads: list[bool] = []

    def restart(never_settles: bool) -> Restarted:
        def read() -> DataPlane:
            reads.append(never_settles)
            found = read_data_plane(cluster, namespace)
            rolling = replace(found.targets[workload], is_complete=not never_settles)
            return replace(found, targets={workload: rolling})

        return restart_data_plane(
            cluster,
            read,
            lambda _: lambda _: len(reads) < 2 or never_settles,
            RestartPolicy(),
            timeout=60,
            on_progress=lambda *_: None,
        )

    text = advice(NotReady, lambda: restart(never_settles=True))
    assert text.startswith("Find out what keeps changing it, or why its pods fail")
    assert len(reads) == SETTLINGS + 1
    # As advised: nothing keeps changing it.
    assert not restart(never_settles=False).manual


@pytest.mark.parametrize(
    ("workloads", "before", "seconds"),
    [(50, 0, 0), (50, 50, 30), (25, 50, 15), (50, 10, 30), (0, 10, 0)],
)
def test_a_batch_should_take_as_long_as_the_one_before_it(
    workloads: int, before: int, seconds: float
) -> None:
    assert usual_seconds(workloads, before, 30.0) == seconds


@follows(
    "Fix the unhealthy pods, or loosen the budget, then run again.",
)
def test_a_budget_is_waited_for(cluster: Cluster, namespace: str) -> None:
    def bystander(name: str, *, ready: bool) -> None:
        """A pod outside the mesh, under the same budget."""
        cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": {"app": "db"},
                    "annotations": {"sandbox.prefect-linkerd/ready": str(ready).lower()},
                },
                "spec": {"containers": [{"name": "c", "image": "example.com/app:1"}]},
            }
        )

    def read() -> DataPlane:
        return read_data_plane(cluster, namespace)

    cluster.create(meshed("StatefulSet", "db", namespace, namespace))
    bystander("unwell", ready=False)
    cluster.create(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "db", "namespace": namespace},
            "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "db"}}},
        }
    )
    deadline = time.monotonic() + 60
    while not (
        len((plane := read()).pods) == 2
        and all(t.is_complete for t in plane.targets.values())
        and [(b.expected, b.healthy) for b in plane.budgets if b.namespace == namespace] == [(3, 2)]
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    before = {pod.uid for pod in plane.pods}

    def restart_all(timeout: float) -> None:
        restart_data_plane(
            cluster,
            read,
            not_made_since(before),
            RestartPolicy(),
            timeout=timeout,
            on_progress=lambda *_: None,
        )

    with pytest.raises(NotReady, match="2 of 3 pods healthy"):
        restart_all(2)
    assert {pod.uid for pod in read().pods} == before
    timer = threading.Timer(2, bystander, ("well",), {"ready": True})
    timer.start()
    restart_all(60)
    timer.join()
    assert not {pod.uid for pod in read().pods if not pod.is_deleting} & before
