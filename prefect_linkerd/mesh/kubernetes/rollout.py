"""Rollouts: whether a workload is up, waiting until it is, and why it is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime

from prefect_linkerd.mesh.errors import ApiError, NotReady
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object, name_of
from prefect_linkerd.mesh.kubernetes.objects import Workload, condition_of, is_true
from prefect_linkerd.mesh.kubernetes.stall import (
    FAILED_CREATE,
    FIX,
    Patience,
    Trouble,
    find_trouble,
    lacks_pods,
    newest_pods,
    newest_replica_set,
    pod_trouble,
    refusal_of,
    refusals,
)
from prefect_linkerd.mesh.kubernetes.waiting import polls

FEW = 4
"""Up to this many workloads of one namespace and kind are read one by one, not as a list."""

EXPLAINED = 3
"""How many late workloads are examined for what holds them up."""

SETTLES = 3.0
"""Seconds until a rollout is late enough to ask why, and between two examinations."""

EARLY = 0.8
"""Fraction of the usual time after which rollouts may be done."""

RARELY = 5.0
"""Seconds between two polls of rollouts that should not be done yet, to report progress."""

SHARE = 0.1
"""From then on, the longest pause between two polls, as a fraction of the usual time."""

HELD = 10.0
"""Seconds for which a poll watches for changes; longer if rollouts usually take longer."""

SHOWN = 1.0
"""Seconds between two progress reports during a watch."""

PATIENT = 10.0
"""Longest time, in seconds, before a rollout that usually takes long is examined."""

OnProgress = Callable[[int, int, str], None]
"""Called with workloads ready, workloads wanted and a text that says what is being waited for."""

Shown = Callable[[str], AbstractContextManager[OnProgress]]
"""Shows one rollout under a title for as long as it takes, for example as a progress bar."""

KINDS: dict[str, str] = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "Job": "batch/v1",
}


@dataclass(frozen=True)
class Rollout:
    """How far one workload is: pods ready of pods wanted, whether it is complete or has failed."""

    ready: int
    wanted: int
    is_complete: bool
    failure: str = ""


def rollout_status(obj: Object) -> Rollout:
    """How far a workload's newest spec has rolled out, by the rules of `kubectl rollout status`.

    Source: https://github.com/kubernetes/kubectl/blob/master/pkg/polymorphichelpers/rollout_status.go
    """
    spec: Object = obj.get("spec") or {}
    status: Object = obj.get("status") or {}
    is_observed = status.get("observedGeneration", 0) >= obj["metadata"].get("generation", 0)
    match obj["kind"]:
        case "Deployment":
            wanted = spec.get("replicas", 1)
            updated, ready = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
            complete = (
                is_observed and updated >= wanted and status.get("replicas", 0) <= updated <= ready
            )
            return Rollout(ready, wanted, complete, _deadline(obj))
        case "StatefulSet":
            wanted = spec.get("replicas", 1)
            ready = status.get("readyReplicas", 0)
            # With OnDelete nothing rolls out by itself; its pods only have to be ready.
            rolls = spec.get("updateStrategy", {}).get("type") != "OnDelete"
            is_current = status.get("updateRevision") == status.get("currentRevision")
            return Rollout(
                ready, wanted, is_observed and ready >= wanted and (is_current or not rolls)
            )
        case "DaemonSet":
            wanted = status.get("desiredNumberScheduled", 0)
            ready = status.get("numberAvailable", 0)
            rolls = spec.get("updateStrategy", {}).get("type") != "OnDelete"
            updated = status.get("updatedNumberScheduled", 0) if rolls else wanted
            return Rollout(ready, wanted, is_observed and updated >= wanted and ready >= wanted)
        case "Job":
            wanted = spec.get("completions") or 1
            ready = status.get("succeeded", 0)
            failed = condition_of(obj, "Failed")
            failure = failed.get("message", "failed") if failed else ""
            return Rollout(ready, wanted, ready >= wanted, failure)
        case kind:
            raise ValueError(f"{kind} has no rollout")


def _deadline(workload: Object) -> str:
    progressing = condition_of(workload, "Progressing") or {}
    if progressing.get("reason") != "ProgressDeadlineExceeded":
        return ""
    return str(progressing.get("message", "progress deadline exceeded"))


LONG_RUNNING = ("Deployment", "StatefulSet", "DaemonSet")


def read_workloads(
    cluster: Cluster, namespace: str, kinds: Sequence[str] = LONG_RUNNING
) -> list[Object]:
    """The workloads of a namespace, with one list request per kind."""
    return [obj for kind in kinds for obj in cluster.list(KINDS[kind], kind, namespace)]


def workload_summary(workloads: Sequence[Object]) -> tuple[int, int, str]:
    """How many workloads are ready, how many there are, and a text that names the late ones."""
    late = [obj for obj in workloads if not rollout_status(obj).is_complete]
    names = ", ".join(obj["metadata"]["name"] for obj in late[:5])
    more = f" and {len(late) - 5} more" if len(late) > 5 else ""
    text = f"waiting for {names}{more}" if late else "all ready"
    return len(workloads) - len(late), len(workloads), text


def await_rollouts(
    cluster: Cluster,
    workloads: Sequence[Workload],
    timeout: float,
    on_progress: OnProgress,
    *,
    every: float = 1.0,
    may_go: bool = False,
    usual: float = 0.0,
) -> None:
    """Waits until every workload is rolled out; a poll is one list per namespace and kind.

    After the list, a poll watches the late workloads, so that it notices at once when the last one
    is done. If there are only a few, it reads them one by one, as a list would include all other
    workloads too, and not before they may be done.

    Args:
        timeout: seconds for all of them together.
        every: seconds between two polls, or twice as long as a poll takes if that is more. If
            there are only a few workloads, the first polls come sooner.
        may_go: whether to stop waiting for a workload that is deleted in the meantime.
        usual: seconds that as many others took. Late workloads are not examined before that time,
            or `PATIENT` if that is shorter, has passed.

    Gives up early once waiting can no longer help: see `kubernetes.stall`.

    Raises:
        NotReady: the first workload that is not, with its pods' reasons and its last events.
    """
    waiting = list(workloads)
    watch = TroubleWatch(cluster, patience=min(usual, PATIENT))
    shortest, took = min(0.1, every) if len(waiting) <= FEW else every, 0.0
    start = time.monotonic()

    def pause() -> float:
        # Reading thousands of workloads is expensive, so it takes at most a third of the time.
        nonlocal shortest
        now = next_look(time.monotonic() - start, usual, shortest)
        shortest = min(2 * shortest, every)
        return max(now, 2 * took)

    def show(found: Mapping[Workload, Object], late: int) -> None:
        _, _, text = workload_summary(list(found.values()))
        on_progress(len(workloads) - late, len(workloads), f"{text}{watch.words}")

    is_too_early = usual > 0 and any(len(names) <= FEW for names in _by_list(waiting).values())
    for is_last in polls(timeout, every=pause):
        if is_too_early and not is_last:
            is_too_early = False
            continue
        begin = time.monotonic()
        found, versions = _read(cluster, waiting)
        took = time.monotonic() - begin
        if not is_last:
            held = min(max(HELD, 1.5 * usual), timeout - (begin - start))
            _follow(cluster, found, versions, held, show)
        gone = [] if may_go else [key for key in waiting if key not in found]
        late = [obj for obj in found.values() if not rollout_status(obj).is_complete]
        waiting = [*gone, *(key for key in waiting if key in found and found[key] in late)]
        watch.inspect(late)
        show(found, len(waiting))
        if not late and not gone:
            return
        if watch.ended is not None:
            obj, trouble = watch.ended
            raise NotReady(
                name_of(obj),
                expected="to be rolled out",
                found=f"{describe(cluster, obj, trouble)}; waiting longer does not help",
                remedy=trouble.remedy,
            )
        failed = [obj for obj in late if rollout_status(obj).failure]
        if failed or is_last:
            if gone and not failed:
                raise NotReady(
                    str(gone[0]), expected="it to exist", found="nothing", remedy="Run again."
                )
            obj = (failed or late)[0]
            raise NotReady(
                name_of(obj),
                expected=f"to be rolled out within {timeout:.0f} s",
                found=describe(cluster, obj),
                remedy=watch.remedy,
            )


def next_look(passed: float, usual: float, every: float) -> float:
    """Seconds until it is worth polling rollouts again.

    Args:
        passed: seconds since they began.
        usual: seconds that as many others took; 0 if unknown.
        every: seconds between two polls if `usual` is unknown; otherwise the longest pause once
            the rollouts may be done.
    """
    if not usual:
        return every
    return max(min(EARLY * usual - passed, RARELY), min(every, SHARE * usual))


def _read(
    cluster: Cluster, workloads: Sequence[Workload]
) -> tuple[dict[Workload, Object], dict[tuple[str, str], str]]:
    """The workloads that exist, and the resourceVersion from which to watch each list of them."""
    versions: dict[tuple[str, str], str] = {}
    found: dict[Workload, Object] = {}
    for (kind, namespace), wanted in _by_list(workloads).items():
        if len(wanted) <= FEW:
            read = (cluster.get(KINDS[kind], kind, name, namespace) for name in sorted(wanted))
            objects = [obj for obj in read if obj is not None]
        else:
            objects, version = cluster.list_to_watch(KINDS[kind], kind, namespace)
            versions[kind, namespace] = version
        for obj in objects:
            if (name := obj["metadata"]["name"]) in wanted:
                found[Workload(kind, namespace, name)] = obj
    return found, versions


def _by_list(workloads: Iterable[Workload]) -> dict[tuple[str, str], set[str]]:
    """The workloads' names by kind and namespace."""
    names: dict[tuple[str, str], set[str]] = {}
    for kind, namespace, name in workloads:
        names.setdefault((kind, namespace), set()).add(name)
    return names


def _follow(
    cluster: Cluster,
    found: dict[Workload, Object],
    versions: Mapping[tuple[str, str], str],
    seconds: float,
    show: Callable[[Mapping[Workload, Object], int], None],
) -> None:
    """Updates `found` by watching until all of it is rolled out, for at most `seconds`.

    Watches one list after the other: a watch begins with everything that changed since its list.

    Args:
        show: called every `SHOWN` seconds, at most, with the workloads and how many are late.
    """
    begin = shown = time.monotonic()
    late = {key for key, obj in found.items() if not rollout_status(obj).is_complete}
    for (kind, namespace), version in versions.items():
        here = {key for key in late if key[:2] == (kind, namespace)}
        left = int(begin + seconds - time.monotonic())
        if not here or left < 1:
            continue
        for obj in cluster.watch(KINDS[kind], kind, namespace, version, left):
            if (key := Workload.of(obj)) not in found:
                continue
            found[key] = obj
            is_late = not rollout_status(obj).is_complete
            for keys in (here, late):
                (keys.add if is_late else keys.discard)(key)
            if not here:
                break
            if (now := time.monotonic()) > shown + SHOWN:
                shown = now
                show(found, len(late))


class TroubleWatch:
    """Examines from time to time what holds up late workloads while a caller waits for them.

    Each examination costs two lists for each of a few workloads, so the first one comes only after
    some seconds. It never fails: the caller meets the same API error itself and reports it.

    Args:
        is_new: whether the caller has already changed a workload. A hopeless trouble of one that it
            has not may be just what it is about to fix, and counts only as a lasting one.
        patience: seconds before the first examination, if longer than `SETTLES`.
    """

    def __init__(
        self,
        cluster: Cluster,
        is_new: Callable[[Object], bool] = lambda _: True,
        *,
        patience: float = 0.0,
    ) -> None:
        self._cluster = cluster
        self._is_new = is_new
        self._patience = Patience()
        self._next = time.monotonic() + max(SETTLES, patience)
        self._since: datetime | None = None
        self._shown: dict[tuple[str, str, int], Trouble] = {}
        self.trouble: Trouble | None = None
        """What holds up the first of the late workloads whose trouble is known."""
        self.ended: tuple[Object, Trouble] | None = None
        """A workload that can no longer come up, and why."""

    @property
    def words(self) -> str:
        """Text for a line of progress; empty if no trouble is known."""
        return f"; {self.trouble}" if self.trouble is not None else ""

    @property
    def remedy(self) -> str:
        return self.trouble.remedy if self.trouble is not None else FIX

    def inspect(self, late: Sequence[Object]) -> None:
        """Examines the first few late workloads, if it is time to."""
        if not late:
            self.trouble = None
            return
        begin = time.monotonic()
        if begin < self._next:
            return
        try:
            if self._since is None:
                self._since = self._cluster.clock()
            found = [(obj, self._explained(obj)) for obj in late[:EXPLAINED]]
        except ApiError:
            return
        finally:
            now = time.monotonic()
            self._next = now + max(SETTLES, 2 * (now - begin))
        self.trouble = next((self._steady(each) for _, each in found if each is not None), None)
        for obj, trouble in found:
            if trouble is not None and trouble.outlook == "hopeless" and not self._is_new(obj):
                trouble = replace(trouble, outlook="lasting")
            if self._patience.is_over(name_of(obj), trouble, now) and trouble is not None:
                self.ended = obj, self._steady(trouble)
                self.trouble = self.ended[1]
                return

    def _explained(self, workload: Object) -> Trouble | None:
        cluster, kind = self._cluster, workload["kind"]
        metadata: Object = workload["metadata"]
        status: Object = workload.get("status") or {}
        generation = metadata.get("generation", 0)
        if kind != "Job" and status.get("observedGeneration", 0) < generation:
            # Its pods and conditions are still those of its previous spec.
            return None
        namespace, labels = metadata["namespace"], _selector(workload)
        pods = list(cluster.list("v1", "Pod", namespace, labels=labels))
        sets: list[Object] = []
        newest: Object | None = None
        if kind == "Deployment":
            sets = list(cluster.list("apps/v1", "ReplicaSet", namespace, labels=labels))
            newest = newest_replica_set(workload, sets)
            is_refused = newest is not None and bool(refusal_of(newest))
        else:
            is_refused = lacks_pods(workload, pods)
        events = cluster.list("v1", "Event", namespace, fields=f"reason={FAILED_CREATE}")
        refused = refusals(events if is_refused else ())
        trouble = find_trouble(workload, pods, sets, refused, since=self._since)
        late = [pod for pod in newest_pods(workload, pods, newest) if not is_pod_ready(pod)]
        if trouble is not None or not late:
            return trouble
        # Only events tell of a volume that cannot be mounted or a probe that fails.
        warnings = {late[0]["metadata"]["name"]: cluster.events(late[0], 1, only="Warning")}
        return find_trouble(workload, pods, sets, refused, since=self._since, warnings=warnings)

    def _steady(self, trouble: Trouble) -> Trouble:
        """The first wording of the same trouble, as a kubelet's changes from poll to poll."""
        if not trouble.cause:
            return trouble
        key = (trouble.subject, trouble.cause, trouble.crashes)
        return self._shown.setdefault(key, trouble)


def _selector(workload: Object) -> str:
    selector: dict[str, str] = workload["spec"].get("selector", {}).get("matchLabels", {})
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))


def not_ready(cluster: Cluster, namespace: str, limit: int = 3) -> list[str]:
    """What is not ready in a namespace and why: one text per workload or Service."""
    late = [
        obj for obj in read_workloads(cluster, namespace) if not rollout_status(obj).is_complete
    ]
    texts = [f"{name_of(obj)}: {describe(cluster, obj)}" for obj in late[:limit]]
    for service in cluster.list("v1", "Service", namespace):
        balancer: Object = service.get("status", {}).get("loadBalancer", {})
        if service["spec"].get("type") == "LoadBalancer" and not balancer.get("ingress"):
            texts.append(f"{name_of(service)}: no load balancer has assigned it an address")
    return texts


def describe(cluster: Cluster, workload: Object, trouble: Trouble | None = None) -> str:
    """Why a workload is not rolled out: its counts, its unready pods' reasons, its last events.

    Args:
        trouble: what is known already; if given, nothing else is said about its pods.
    """
    status = rollout_status(workload)
    parts = [f"{status.ready} of {status.wanted} ready"]
    if trouble is not None:
        return f"{parts[0]}; {trouble}"
    if status.failure:
        parts.append(status.failure)
    namespace, labels = workload["metadata"]["namespace"], _selector(workload)
    unready = [
        pod for pod in cluster.list("v1", "Pod", namespace, labels=labels) if not is_pod_ready(pod)
    ]
    for pods in _alike(unready)[:3]:
        also = f" (and {len(pods) - 1} more alike)" if len(pods) > 1 else ""
        reason = "; ".join([pod_reason(pods[0]), *cluster.events(pods[0], 3)])
        parts.append(f"{name_of(pods[0])}{also}: {reason}")
    if not unready:
        parts += cluster.events(workload, 3)
        for owned in cluster.list("apps/v1", "ReplicaSet", namespace, labels=labels):
            # If a webhook or quota refuses pods, only the ReplicaSet's events say so.
            if owned.get("status", {}).get("replicas", 0) < owned["spec"].get("replicas", 0):
                parts += cluster.events(owned, 3)
    return "; ".join(parts)


def _alike(pods: Iterable[Object]) -> list[list[Object]]:
    """Groups pods by reason: three replicas would say the same three times."""
    groups: dict[str, list[Object]] = {}
    for pod in pods:
        groups.setdefault(pod_reason(pod), []).append(pod)
    return list(groups.values())


def is_pod_ready(pod: Object) -> bool:
    if pod.get("status", {}).get("phase") == "Succeeded":
        return True
    return is_true(pod, "Ready")


def pod_reason(pod: Object) -> str:
    """The most telling reason of an unready pod: a container's, a condition's, or its phase."""
    if (trouble := pod_trouble(pod)) is not None:
        return trouble.reason
    status: Object = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["status"] != "True" and condition.get("reason"):
            return f"{condition['reason']}: {condition.get('message', '')}".strip(": ")
    return str(status.get("phase", "unknown"))
