"""Restarts the data plane: which workloads, in which batches, and only while it is healthy.

The planner is pure. It takes a `DataPlane` (the meshed pods, the workloads that own them and the
PodDisruptionBudgets over them, read once by `read_data_plane`) and a predicate that says which pods
need a restart, and returns a `RestartPlan`:

- the control plane first, one workload at a time with identity before the others, then the
  extensions, then every other meshed workload, the namespaces that the policy names before those
  that it does not;
- batches that stay within the policy's size and its limit of unavailable pods, as counted by the
  update strategies, and that need no more than each PodDisruptionBudget allows;
- what a restart cannot reach and has to be restarted manually (`manual`): bare pods, Jobs,
  OnDelete strategies, paused Deployments, partitions, budgets that allow too little.

`restart_data_plane` restarts them by setting the annotation that `kubectl rollout restart` sets.
Each batch has to be rolled out before the next one begins. As the predicate looks at pods and
nothing is remembered, a run can be killed at any point and another can resume it: a workload whose
pods are as they should be is not restarted, and one that is still rolling out is waited for first.
For another purpose, pass another predicate:

    plan = plan_restarts(read_data_plane(cluster, "linkerd"), is_old, policy)
    restart_data_plane(cluster, lambda: read_data_plane(cluster, "linkerd"), lambda _: is_old, ...)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, runtime_checkable

from prefect_linkerd.mesh.config.restart_policy import RestartPolicy
from prefect_linkerd.mesh.errors import ApiError, NotReady
from prefect_linkerd.mesh.install.injection import (
    CONTROL_PLANE_NS,
    PROXY_VERSION,
    restart,
    unmeshed,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.kubernetes.collector import paused_collector
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.permissions import Permission
from prefect_linkerd.mesh.kubernetes.rollout import (
    KINDS,
    LONG_RUNNING,
    OnProgress,
    await_rollouts,
    rollout_status,
)
from prefect_linkerd.mesh.kubernetes.selector import matches
from prefect_linkerd.mesh.kubernetes.waiting import polls
from prefect_linkerd.mesh.snapshot.mesh import Pod, read_pods
from prefect_linkerd.mesh.traffic.watch import TrafficWatch

ATTEMPTS = 3
"""How often pods that still need a restart are restarted again: the injector may lag behind."""
SETTLINGS = 20
"""How often the rollouts of others are waited for."""

PAGE = 1000
"""Pods or workloads that one request reads: large, because all are read repeatedly."""

WRITERS = 8
"""Workloads of a batch that are restarted in parallel."""

Stage = Literal["control plane", "extensions", "workloads"]
STAGES: tuple[Stage, ...] = ("control plane", "extensions", "workloads")


@dataclass(frozen=True, slots=True)
class RestartTarget:
    """A workload as a restart sees it.

    `disruption` is how many of its pods its update strategy may remove at once, `waves` in how
    many steps it replaces them all, and `obstacle` why the annotation does not restart it, or
    empty. `pin` is the version to which its pod template pins its proxies, or empty.
    """

    workload: Workload
    pod_labels: Mapping[str, str]
    disruption: int
    waves: int
    is_complete: bool
    obstacle: str = ""
    pin: str = ""

    @property
    def subject(self) -> str:
        """How messages name it."""
        return str(self.workload)


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget: `allowed` is how many more pods may become unavailable."""

    namespace: str
    name: str
    selector: Mapping[str, Any]
    allowed: int
    healthy: int
    expected: int

    @property
    def subject(self) -> str:
        """How messages name it."""
        return f"PodDisruptionBudget/{self.namespace}/{self.name}"

    @property
    def is_settled(self) -> bool:
        """Whether every pod is healthy, so that `allowed` will not grow by waiting."""
        return self.healthy >= self.expected

    def covers(self, target: RestartTarget) -> bool:
        return target.workload[1] == self.namespace and matches(self.selector, target.pod_labels)


@dataclass(frozen=True)
class DataPlane:
    """Every pod with a running proxy of one control plane, their workloads, and the budgets.

    `pins` are the versions to which namespaces pin the proxies of their pods.
    """

    control_plane: str
    extensions: frozenset[str]
    pods: tuple[Pod, ...]
    targets: Mapping[Workload, RestartTarget]
    budgets: tuple[Budget, ...]
    pins: Mapping[str, str] = field(default_factory=dict[str, str])

    def pin_of(self, pod: Pod) -> tuple[str, str] | None:
        """What pins a pod's proxy, and to which version; None if it follows the mesh's version.

        A workload's own annotation takes precedence over its namespace's, as in the injector.
        Injected pods carry their namespace's as well, so a pod's own counts only if it is bare.
        """
        target = self.targets.get(pod.owner) if pod.owner is not None else None
        if target is not None and target.pin:
            return target.subject, target.pin
        if target is None and (version := pod.annotations.get(PROXY_VERSION)):
            return pod.subject, version
        if version := self.pins.get(pod.namespace):
            return f"Namespace/{pod.namespace}", version
        return None

    def stage(self, namespace: str) -> Stage:
        if namespace == self.control_plane:
            return "control plane"
        return "extensions" if namespace in self.extensions else "workloads"


@dataclass(frozen=True)
class Batch:
    """Workloads that are restarted together; `reason` is why not with the previous batch."""

    stage: Stage
    targets: tuple[RestartTarget, ...]
    reason: str = ""

    @property
    def workloads(self) -> tuple[Workload, ...]:
        return tuple(target.workload for target in self.targets)


@dataclass(frozen=True)
class ManualRestart:
    """What has to be restarted manually, and why."""

    subject: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


@dataclass(frozen=True)
class RestartPlan:
    """What is restarted in which order; `settling` is still rolling out and is waited for."""

    batches: tuple[Batch, ...]
    manual: tuple[ManualRestart, ...]
    settling: tuple[Workload, ...] = ()

    @property
    def restarts(self) -> int:
        return sum(len(batch.targets) for batch in self.batches)

    def seconds(self, policy: RestartPolicy, seconds_per_pod: float = 30.0) -> float:
        """About how long it takes, if a pod takes `seconds_per_pod` to be replaced."""
        rollouts = sum(max(target.waves for target in batch.targets) for batch in self.batches)
        pauses = policy.pause_seconds * max(len(self.batches) - 1, 0)
        return rollouts * seconds_per_pod + pauses


Needs = Callable[[Pod], bool]
"""Whether a pod needs a restart."""


@runtime_checkable
class ShowsBatches(Protocol):
    """What some `OnProgress` can also do: show all batches and their progress."""

    def show_batches(self, batches: Sequence[Batch], done: int) -> None:
        """Called before each batch, and after the last.

        Args:
            done: how many of them are restarted; the next one is about to be.
        """
        ...


# The plan


def plan_restarts(
    data_plane: DataPlane,
    needs: Needs,
    policy: RestartPolicy,
    *,
    tolerated: frozenset[Workload] = frozenset(),
) -> RestartPlan:
    """The batches that restart every pod that needs it; changes nothing.

    Args:
        tolerated: workloads known to be unhealthy, which are restarted even if not rolled out.
    """
    stale: dict[Workload, None] = {}
    manual: list[ManualRestart] = []
    for pod in data_plane.pods:
        if pod.is_deleting or not needs(pod):
            continue
        if pod.owner is not None and pod.owner in data_plane.targets:
            stale[pod.owner] = None
        else:
            manual.append(ManualRestart(pod.subject, _why_manual(pod)))
    restarted: list[RestartTarget] = []
    settling: list[Workload] = []
    for workload in stale:
        target = data_plane.targets[workload]
        if reason := target.obstacle or _blocked(target, data_plane.budgets):
            manual.append(ManualRestart(target.subject, reason))
        elif target.is_complete or workload in tolerated:
            restarted.append(target)
        else:
            settling.append(workload)
    restarted.sort(key=lambda target: _order(target, data_plane, policy))
    return RestartPlan(
        batches=tuple(_batches(restarted, data_plane, policy)),
        manual=tuple(sorted(manual, key=str)),
        settling=tuple(sorted(settling)),
    )


def _why_manual(pod: Pod) -> str:
    if pod.owner is None:
        return (
            "no Deployment, StatefulSet or DaemonSet owns it: delete it, or let whatever created "
            "it recreate it"
        )
    owner = str(pod.owner)
    if pod.owner[0] == "Job":
        return f"{owner} owns it: let it finish, or delete and recreate the Job"
    if pod.owner[0] in LONG_RUNNING:
        return f"{owner}, which owned it, no longer exists: delete the pod"
    return f"{owner} owns it, which these flows cannot restart: use that owner's own tools"


def _blocked(target: RestartTarget, budgets: Iterable[Budget]) -> str:
    """Why a budget will never allow what a workload's update strategy removes, or empty."""
    for budget in budgets:
        too_few = target.disruption > budget.allowed and budget.is_settled
        if too_few and budget.covers(target):
            return (
                f"its update removes {target.disruption} pods at once and {budget.subject} allows "
                f"{budget.allowed}: loosen one of the two, or restart it manually"
            )
    return ""


def _order(
    target: RestartTarget, data_plane: DataPlane, policy: RestartPolicy
) -> tuple[int, bool, int, str, str, str]:
    kind, namespace, name = target.workload
    # Identity first: starting proxies get their certificate from it.
    is_late = name != "linkerd-identity"
    return (
        STAGES.index(data_plane.stage(namespace)),
        is_late,
        _rank(namespace, policy),
        namespace,
        kind,
        name,
    )


def _rank(namespace: str, policy: RestartPolicy) -> int:
    """The rank of a namespace; all that the policy does not name share the last one."""
    names = policy.namespaces
    return names.index(namespace) if namespace in names else len(names)


def _batches(
    targets: Sequence[RestartTarget], data_plane: DataPlane, policy: RestartPolicy
) -> Iterable[Batch]:
    current: list[RestartTarget] = []
    reason = "first"
    for target in targets:
        apart = _why_new_batch(target, current, data_plane, policy) if current else ""
        if apart:
            yield Batch(data_plane.stage(current[0].workload[1]), tuple(current), reason)
            current, reason = [], apart
        current.append(target)
    if current:
        yield Batch(data_plane.stage(current[0].workload[1]), tuple(current), reason)


def _why_new_batch(
    target: RestartTarget,
    batch: Sequence[RestartTarget],
    data_plane: DataPlane,
    policy: RestartPolicy,
) -> str:
    """Why a workload is not restarted together with a batch; empty if it is."""
    here, there = target.workload[1], batch[0].workload[1]
    stage = data_plane.stage(here)
    if stage != data_plane.stage(there):
        return f"{stage} after the {data_plane.stage(there)}"
    if stage == "control plane":
        return "the control plane one workload at a time"
    if _rank(here, policy) != _rank(there, policy):
        return f"namespace {here} after {there}"
    if len(batch) >= policy.batch_size:
        return f"at most {policy.batch_size} workloads at once"
    together = [*batch, target]
    taken = sum(each.disruption for each in together)
    if policy.max_unavailable is not None and taken > policy.max_unavailable:
        return f"at most {policy.max_unavailable} pods unavailable"
    for budget in data_plane.budgets:
        if target.disruption and budget.covers(target):
            taken = sum(each.disruption for each in together if budget.covers(each))
            if taken > budget.allowed:
                return f"{budget.subject} allows {budget.allowed}"
    return ""


# Reading


@paused_collector()
def read_data_plane(cluster: Cluster, control_plane: str) -> DataPlane:
    """Reads every meshed pod of a control plane, their workloads and namespaces, and all budgets.

    Args:
        control_plane: the namespace of the control plane.
    """
    with ThreadPoolExecutor(4) as pool:
        pods = pool.submit(read_proxies, cluster, control_plane)
        namespaces = pool.submit(
            lambda: {
                str(obj["metadata"]["name"]): obj["metadata"]
                for obj in cluster.list("v1", "Namespace", metadata_only=True)
            }
        )
        targets = [pool.submit(_targets, cluster, kind) for kind in LONG_RUNNING]
        budgets = pool.submit(read_budgets, cluster)
        found = {target.workload: target for part in targets for target in part.result()}
        owners = {pod.owner for pod in pods.result()}
        places = namespaces.result()
        pins = {name: _pin(metadata) for name, metadata in places.items()}
        return DataPlane(
            control_plane=control_plane,
            extensions=frozenset(
                name
                for name, metadata in places.items()
                if "linkerd.io/extension" in (metadata.get("labels") or {})
            ),
            pods=pods.result(),
            targets={key: target for key, target in found.items() if key in owners},
            budgets=budgets.result(),
            pins={name: pin for name, pin in pins.items() if pin},
        )


@paused_collector()
def with_current_pods(cluster: Cluster, data_plane: DataPlane) -> DataPlane:
    """The same data plane with its current pods.

    Their workloads are not read again, so no restart may be planned from it.
    """
    return replace(data_plane, pods=read_proxies(cluster, data_plane.control_plane))


def _pin(metadata: Mapping[str, Any]) -> str:
    annotations: Mapping[str, str] = metadata.get("annotations") or {}
    return annotations.get(PROXY_VERSION, "")


def restart_permissions(workloads: Iterable[Workload]) -> list[Permission]:
    """The permissions to restart workloads, in no other than their namespaces."""
    places = dict.fromkeys((kind, namespace) for kind, namespace, _ in workloads)
    return [
        Permission("patch", f"{kind.lower()}s", "apps", namespace) for kind, namespace in places
    ]


def data_plane_reads() -> list[Permission]:
    """The permissions to read the data plane, in every namespace."""
    return [
        Permission("list", "namespaces"),
        Permission("list", "pods"),
        *(Permission("list", f"{kind.lower()}s", "apps") for kind in LONG_RUNNING),
        Permission("list", "poddisruptionbudgets", "policy"),
    ]


def read_proxies(cluster: Cluster, control_plane: str) -> tuple[Pod, ...]:
    """Every pod with a running proxy of a control plane; a terminating pod's still runs."""
    return tuple(
        pod
        for pod in read_pods(cluster, labels=f"{CONTROL_PLANE_NS}={control_plane}", page=PAGE)
        if pod.proxy is not None and pod.phase not in ("Succeeded", "Failed")
    )


def _targets(cluster: Cluster, kind: str) -> list[RestartTarget]:
    return [target_of(obj) for obj in cluster.list(KINDS[kind], kind, page=PAGE)]


def read_budgets(cluster: Cluster, namespace: str | None = None) -> tuple[Budget, ...]:
    """The PodDisruptionBudgets of a namespace or of the whole cluster."""
    return tuple(
        Budget(
            namespace=obj["metadata"]["namespace"],
            name=obj["metadata"]["name"],
            selector=obj["spec"].get("selector") or {},
            allowed=obj.get("status", {}).get("disruptionsAllowed", 0),
            healthy=obj.get("status", {}).get("currentHealthy", 0),
            expected=obj.get("status", {}).get("expectedPods", 0),
        )
        for obj in cluster.list("policy/v1", "PodDisruptionBudget", namespace)
    )


def target_of(obj: Object) -> RestartTarget:
    """A Deployment, StatefulSet or DaemonSet as a restart sees it."""
    kind: str = obj["kind"]
    spec: dict[str, Any] = obj["spec"]
    status = rollout_status(obj)
    template: dict[str, Any] = spec["template"].get("metadata") or {}
    disruption, step = _strategy(kind, spec, status.wanted)
    return RestartTarget(
        workload=Workload.of(obj),
        pod_labels=template.get("labels") or {},
        disruption=disruption,
        waves=math.ceil(status.wanted / step) if status.wanted else 0,
        is_complete=status.is_complete,
        obstacle=_obstacle(kind, spec),
        pin=_pin(template),
    )


def _obstacle(kind: str, spec: Mapping[str, Any]) -> str:
    strategy: dict[str, Any] = spec.get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return "its update strategy is OnDelete: delete its pods one by one"
    rolling: dict[str, Any] = strategy.get("rollingUpdate") or {}
    if kind == "StatefulSet" and rolling.get("partition"):
        return "its rolling update has a partition, below which pods are not updated: set it to 0"
    if spec.get("paused"):
        return "it is paused, so nothing rolls out: run kubectl rollout resume"
    return ""


def _strategy(kind: str, spec: Mapping[str, Any], replicas: int) -> tuple[int, int]:
    """How many pods an update may remove at once, and how many it replaces at once.

    Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#strategy
    """
    strategy: dict[str, Any] = spec.get("strategy") or spec.get("updateStrategy") or {}
    rolling: dict[str, Any] = strategy.get("rollingUpdate") or {}
    if kind == "Deployment":
        if strategy.get("type") == "Recreate":
            return replicas, max(replicas, 1)
        away = _share(rolling.get("maxUnavailable", "25%"), replicas, math.floor)
        surge = _share(rolling.get("maxSurge", "25%"), replicas, math.ceil)
        if away == surge == 0:
            away = 1
    else:
        surge = _share(rolling.get("maxSurge", 0), replicas, math.ceil)
        away = _share(rolling.get("maxUnavailable", 0 if surge else 1), replicas, math.ceil)
    return min(away, replicas), max(away + surge, 1)


def _share(value: int | str, replicas: int, rounded: Callable[[float], int]) -> int:
    if isinstance(value, int):
        return value
    return rounded(replicas * int(value.rstrip("%")) / 100)


# Restarting


@dataclass(frozen=True)
class Restarted:
    """What was restarted, and what has to be restarted manually."""

    workloads: tuple[Workload, ...]
    manual: tuple[ManualRestart, ...]


def restart_data_plane(
    cluster: Cluster,
    read: Callable[[], DataPlane],
    judge: Callable[[DataPlane], Needs],
    policy: RestartPolicy,
    *,
    timeout: float,
    on_progress: OnProgress,
    tolerated: frozenset[Workload] = frozenset(),
    before_batch: Callable[[Batch], None] = lambda _: None,
    watch: TrafficWatch | None = None,
) -> Restarted:
    """Restarts batch by batch until no pod needs it, except those to be restarted manually.

    It can be killed at any time: the next run restarts the rest.

    Args:
        read: reads the data plane; called before the first batch and again after the last.
        judge: returns the predicate that says which pods of a data plane need a restart.
        timeout: seconds that budgets may take to allow a batch, and again that it may take to roll
            out.
        before_batch: called before each batch; stops everything by raising.
        tolerated: workloads known to be unhealthy: restarted, but not waited for.
        watch: compares the requests of each batch before and after its restart.

    Raises:
        TrafficDropped: fewer requests succeed since a batch; the next one is not started.
        NotReady: a workload did not come up again, a PodDisruptionBudget never allowed its restart,
            its new pods still need one, or somebody else keeps rolling it out.
    """
    done: list[Workload] = []
    left: list[Workload] = []
    data_plane: DataPlane | None = None
    restarts = settlings = 0
    while True:
        data_plane, needs = _read_and_judge(cluster, read, judge, data_plane)
        plan = plan_restarts(data_plane, needs, policy, tolerated=tolerated)
        total = len(done) + len(plan.settling) + plan.restarts
        progress = _overall_progress(len(done), total, on_progress)
        if plan.settling:
            left = list(plan.settling)
            settlings += 1
            if settlings > SETTLINGS:
                raise NotReady(
                    str(left[0]),
                    expected="to stay rolled out",
                    found=f"that it is rolling out again, after {SETTLINGS} rollouts of others",
                    remedy="Find out what keeps changing it, or why its pods fail, then run again.",
                )
            await_rollouts(cluster, left, timeout, progress, may_go=True)
            continue
        if not plan.batches:
            # Without high availability, pods start without a proxy while no injector answers.
            left = sorted(set(done).intersection(unmeshed(cluster))) if done else []
            if not left:
                on_progress(total, total, "all restarted")
                return Restarted(tuple(done), plan.manual)
        restarts += 1
        if restarts > ATTEMPTS + 1:
            raise NotReady(
                str(next(iter(left or done), "data plane")),
                expected="pods that need no restart, after a restart",
                found=f"that they still need one, after {ATTEMPTS} more",
                remedy="Look at the proxy injector: its view of the cluster may be out of date.",
            )
        if not plan.batches:
            _restart(cluster, left)
            await_rollouts(cluster, left, timeout, progress, may_go=True)
            continue
        covered = {budget.namespace for budget in data_plane.budgets}
        show = _shown_by(on_progress)
        took: dict[Stage, tuple[int, float]] = {}
        for number, batch in enumerate(plan.batches):
            show(plan.batches, number)
            if number and policy.pause_seconds:
                time.sleep(policy.pause_seconds)
            before_batch(batch)
            _await_budgets(cluster, batch, covered, timeout, tolerated)
            if watch is not None:
                names = (target.subject for target in batch.targets)
                watch.before(names, judged_by(batch, data_plane), data_plane.pods)
            left = _restart(cluster, batch.workloads)
            waited = [w for w in left if w not in tolerated]
            begin = time.monotonic()
            await_rollouts(
                cluster,
                waited,
                timeout,
                _overall_progress(len(done), total, on_progress),
                may_go=True,
                usual=usual_seconds(len(waited), *took.get(batch.stage, (0, 0.0))),
            )
            took[batch.stage] = len(waited), time.monotonic() - begin
            done += left
            if watch is not None:
                following = plan.batches[number + 1 : number + 2]
                ahead = judged_by(following[0], data_plane) if following else ()
                row = watch.after(ahead)
                on_progress(min(len(done), total), total, str(row))
        show(plan.batches, len(plan.batches))


def _read_and_judge(
    cluster: Cluster,
    read: Callable[[], DataPlane],
    judge: Callable[[DataPlane], Needs],
    before: DataPlane | None,
) -> tuple[DataPlane, Needs]:
    """The current data plane, and which of its pods need a restart.

    The workloads, which are half of it, are read again only if a pod needs a restart.

    Args:
        before: the data plane as last read; None the first time.
    """
    if before is not None:
        data_plane = with_current_pods(cluster, before)
        needs = judge(data_plane)
        if not any(needs(pod) for pod in data_plane.pods if not pod.is_deleting):
            return data_plane, needs
    data_plane = read()
    return data_plane, judge(data_plane)


def usual_seconds(workloads: int, before: int, seconds: float) -> float:
    """How long a batch usually takes, judged by the one before it; 0 if there was none.

    Args:
        workloads: how many are waited for.
        before: how many were in the batch before, which took `seconds`.
    """
    return seconds * min(workloads / before, 1.0) if before else 0.0


def _shown_by(on_progress: OnProgress) -> Callable[[Sequence[Batch], int], None]:
    """The function that shows batches; it does nothing if the progress cannot show them."""
    if isinstance(on_progress, ShowsBatches):
        return on_progress.show_batches
    return lambda _batches, _done: None


def judged_by(batch: Batch, data_plane: DataPlane) -> frozenset[str]:
    """The workloads whose requests tell whether a batch's restart went well.

    Its own; for the control plane, which serves no user requests, every workload outside of it
    and the extensions.
    """
    if batch.stage == "control plane":
        return frozenset(
            target.subject
            for target in data_plane.targets.values()
            if data_plane.stage(target.workload[1]) == "workloads"
        )
    return frozenset(target.subject for target in batch.targets)


def _restart(cluster: Cluster, workloads: Sequence[Workload]) -> list[Workload]:
    """Restarts workloads; returns those that still existed, as some may be deleted meanwhile."""

    def was_there(workload: Workload) -> bool:
        try:
            restart(cluster, workload, datetime.now(UTC))
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        there = list(pool.map(was_there, workloads))
    return [workload for workload, is_there in zip(workloads, there, strict=True) if is_there]


def _overall_progress(done: int, total: int, on_progress: OnProgress) -> OnProgress:
    """Reports the progress of one batch as that of all."""
    return lambda ready, _, text: on_progress(min(done + ready, total), total, text)


def _await_budgets(
    cluster: Cluster,
    batch: Batch,
    covered: set[str],
    timeout: float,
    tolerated: frozenset[Workload],
) -> None:
    """Waits until every budget allows what the batch removes."""
    costs = [t for t in batch.targets if t.disruption and t.workload not in tolerated]
    for is_last in polls(timeout, every=1.0):
        namespaces = {target.workload[1] for target in costs} & covered
        tight = [
            (budget, taken)
            for namespace in sorted(namespaces)
            for budget in read_budgets(cluster, namespace)
            if (taken := sum(t.disruption for t in costs if budget.covers(t))) > budget.allowed
        ]
        if not tight:
            return
        if is_last:
            budget, taken = tight[0]
            raise NotReady(
                budget.subject,
                expected=f"it to allow {taken} pods to be down, for a restart of "
                f"{', '.join('/'.join(workload) for workload in batch.workloads)}",
                found=f"that it allows {budget.allowed}, with {budget.healthy} of "
                f"{budget.expected} pods healthy",
                remedy="Fix the unhealthy pods, or loosen the budget, then run again.",
            )
