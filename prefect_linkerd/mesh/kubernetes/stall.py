"""Why the pods of a workload do not come up, and whether waiting can still help. Does no I/O.

`find_trouble` says what holds a rollout up, in the words of the kubelet or of the admission control
that refuses its pods. `Patience` follows these troubles during a wait and says when to give up:

- `hopeless`: at once, as only a change of the pod, its image name or its namespace helps.
- `lasting` (an image that cannot be pulled, a missing ConfigMap, an admission webhook that denies
  the pods) and `crashing`: it may pass, but usually does not. After `LASTING` seconds without a
  break; a crash loop also needs `CRASHES` restarts, at least one of them during the wait.
- `passing` (no node with room, a quota, an unreachable webhook, a failing probe): never; only
  shown.

Sources: kubernetes `pkg/kubelet/images/types.go`, `pkg/kubelet/container/sync_result.go`,
`pkg/controller/replicaset` (ReplicaFailure) and `staging/.../pod-security-admission`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from prefect_linkerd.mesh.kubernetes.client import Object, name_of
from prefect_linkerd.mesh.kubernetes.objects import POD_HASH, Ref, condition_of, is_over, is_true

Outlook = Literal["hopeless", "lasting", "crashing", "passing"]

LASTING = 300.0
"""Seconds to wait for a trouble that may pass."""

CRASHES = 6
"""Restarts of a crash loop; with the kubelet's default back-off they take five minutes as well."""

HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
PULLS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
CREATES = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
CRASH_LOOP = "CrashLoopBackOff"
STARTING = frozenset({"PodInitializing", "ContainerCreating"})

FAILED_CREATE = "FailedCreate"
POD_SECURITY = "violates PodSecurity"
DENIED = "denied the request"

REVISION = "deployment.kubernetes.io/revision"
CONTROLLER_HASH = "controller-revision-hash"

FIX = "Fix what the pods and events name, then run again."


@dataclass(frozen=True)
class Trouble:
    """What holds a workload up.

    `cause` stays the same while the kubelet's wording changes. `crashes` is the number of restarts
    of a crashing container; `is_down` says whether it is currently waiting for its next start.
    """

    subject: str
    reason: str
    outlook: Outlook
    remedy: str = FIX
    cause: str = ""
    crashes: int = 0
    is_down: bool = True

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


@dataclass(frozen=True)
class Refusal:
    """The API server's refusal of a controller's pods: its message, and when it last occurred."""

    message: str
    at: datetime | None = None


# Pods


def pod_trouble(pod: Object, events: Sequence[str] = ()) -> Trouble | None:
    """What keeps a pod from being ready; None if nothing shows it yet.

    Args:
        events: its last warnings, oldest first. They are the only sign of a volume that cannot be
            mounted or a probe that fails.
    """
    subject = name_of({"kind": "Pod", **pod})
    status: Object = _part(pod, "status")
    inits: list[Object] = status.get("initContainerStatuses") or []
    others: list[Object] = status.get("containerStatuses") or []
    found = [
        trouble
        for group, word in ((inits, "init container"), (others, "container"))
        for container in group
        if (trouble := _container(subject, word, container)) is not None
    ]
    if found:
        # The first in the pod's order, unless another one is hopeless.
        return min(found, key=lambda trouble: trouble.outlook != "hopeless")
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled is not None and scheduled["status"] != "True":
        return Trouble(subject, _sentence(scheduled), "passing", "Make room on the nodes.")
    return Trouble(subject, events[-1], "passing") if events else None


def _container(subject: str, word: str, container: Mapping[str, Any]) -> Trouble | None:
    state: Object = _part(container, "state")
    waiting: Object = _part(state, "waiting")
    last: Object = _part(_part(container, "lastState"), "terminated")
    ended: Object = _part(state, "terminated")
    crashes = int(container.get("restartCount") or 0)
    name = f"{word} {container['name']}"
    reason = str(waiting.get("reason") or "")
    if reason == CRASH_LOOP:
        text = f"{name} {reason} after {_count(crashes, 'restart')}"
        text += f": it {_end(last)}" if last else ""
        return Trouble(subject, text, "crashing", _LOGS, name, crashes)
    if reason and reason not in STARTING:
        outlook: Outlook = "passing"
        if reason in HOPELESS:
            outlook = "hopeless"
        elif reason in PULLS or reason in CREATES:
            outlook = "lasting"
        text = f"{name} {reason}: {waiting.get('message') or ''}".strip(": ")
        is_image = reason in PULLS or reason in HOPELESS
        cause = f"{name} {'image' if is_image else reason}"
        return Trouble(subject, text, outlook, _IMAGE if is_image else FIX, cause)
    if ended.get("exitCode"):
        return Trouble(subject, f"{name} {_end(ended)}", "crashing", _LOGS, name, crashes)
    if last.get("exitCode") and not container.get("ready"):
        text = f"{name} was restarted {_count(crashes, 'time')}: it {_end(last)}"
        return Trouble(subject, text, "crashing", _LOGS, name, crashes, is_down=False)
    return None


_LOGS = "Look at the container's log (kubectl logs --previous), fix its cause and run again."
_IMAGE = "Fix the image's name, its registry or the pull secret, then run again."


def _end(terminated: Mapping[str, Any]) -> str:
    text = f"exited with {terminated.get('exitCode', 0)}"
    if (reason := terminated.get("reason")) and reason != "Error":
        text += f" ({reason})"
    words = str(terminated.get("message") or "").strip()
    # The last line says why; a whole log would fill a page.
    return f"{text}: {words.splitlines()[-1][-300:]}" if words else text


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _sentence(condition: Mapping[str, Any]) -> str:
    return f"{condition.get('reason') or ''}: {condition.get('message') or ''}".strip(": ")


def _items(obj: Mapping[str, Any], key: str) -> list[Object]:
    return obj.get(key) or []


def _part(obj: Mapping[str, Any], key: str) -> Object:
    return obj.get(key) or {}


# Refused pods


def refusal_of(obj: Object) -> str:
    """Why the API server refuses the pods of a Deployment or ReplicaSet; empty if it does not."""
    found = condition_of(obj, "ReplicaFailure")
    if found is None or found["status"] != "True":
        return ""
    return str(found.get("message") or found.get("reason") or "")


def refusals(events: Iterable[Object]) -> dict[Ref, Refusal]:
    """The last refusal of each controller, by kind, namespace and name, from FailedCreate events.

    For StatefulSets, DaemonSets and Jobs, only events record refusals.
    """
    found: dict[Ref, Refusal] = {}
    for event in events:
        if event.get("reason") != FAILED_CREATE:
            continue
        of: dict[str, str] = event["involvedObject"]
        stamp = _part(event, "series").get("lastObservedTime")
        stamp = stamp or event.get("lastTimestamp") or event.get("eventTime")
        at = datetime.fromisoformat(stamp) if stamp else None
        key = Ref(of["kind"], of.get("namespace", ""), of["name"])
        before = found.get(key)
        if before is None or before.at is None or (at is not None and at >= before.at):
            found[key] = Refusal(str(event.get("message") or ""), at)
    return found


def refusal_remedy(message: str) -> str:
    """What to do about refused pods, depending on the message that refuses them."""
    if POD_SECURITY in message:
        own = "linkerd-init" in message
        label = "lower the namespace's label pod-security.kubernetes.io/enforce"
        if own:
            # linkerd-init sets up iptables, for which it needs NET_ADMIN and NET_RAW.
            # Source: https://linkerd.io/2/features/cni/
            return (
                f"Install Linkerd's CNI plugin and set cniEnabled in the control plane's values, "
                f"so that pods need no linkerd-init, or {label} to privileged."
            )
        return f"Set the securityContext that admission asks for, or {label}."
    if "exceeded quota" in message:
        return "Raise the ResourceQuota, or make room below it."
    if DENIED in message:
        return "Change what the admission webhook names, or exempt this workload from it."
    if "failed calling webhook" in message:
        return "Look at the pods of the webhook's Service: the API server cannot reach it."
    return "Fix what the message names."


def _refused(subject: str, message: str, *, is_fresh: bool) -> Trouble:
    outlook: Outlook = "passing"
    # A controller retries less and less often, so a refusal that is not fresh may be out of date.
    if is_fresh and POD_SECURITY in message:
        outlook = "hopeless"
    elif is_fresh and DENIED in message:
        outlook = "lasting"
    text = f"its pods are refused: {message}"
    return Trouble(subject, text, outlook, refusal_remedy(message), "refused")


# Workloads


def find_trouble(
    workload: Object,
    pods: Iterable[Object],
    replica_sets: Iterable[Object] = (),
    refused: Mapping[Ref, Refusal] | None = None,
    *,
    since: datetime | None = None,
    warnings: Mapping[str, Sequence[str]] | None = None,
) -> Trouble | None:
    """What keeps a workload's newest pods from being ready; None if nothing shows it yet.

    Pods and ReplicaSets of earlier revisions are ignored, as they are being replaced.

    Args:
        pods: those that the workload's selector matches.
        replica_sets: a Deployment's.
        refused: `refusals` of the namespace's events.
        since: when the wait began, by the API server's clock: an older refusal may be out of date.
        warnings: warning events of pods, by the pods' names.
    """
    newest = newest_replica_set(workload, replica_sets)
    if workload["kind"] == "Deployment" and newest is None:
        return None
    found = list(pods)
    by = newest if newest is not None else workload
    key = Ref(by["kind"], workload["metadata"]["namespace"], by["metadata"]["name"])
    said = (refused or {}).get(key)
    is_fresh = since is None or (said is not None and said.at is not None and said.at >= since)
    refusal: Trouble | None = None
    if newest is not None:
        if message := refusal_of(newest):
            return _refused(str(key), message, is_fresh=said is not None and is_fresh)
    elif said is not None and lacks_pods(workload, found):
        refusal = _refused(str(key), said.message, is_fresh=is_fresh)
        if is_fresh:
            return refusal
    troubles = [
        trouble
        for pod in newest_pods(workload, found, newest)
        if not is_over(pod)
        and not is_true(pod, "Ready")
        and (trouble := pod_trouble(pod, (warnings or {}).get(pod["metadata"]["name"], ())))
    ]
    order: list[Outlook] = ["hopeless", "lasting", "crashing", "passing"]
    # Events are never withdrawn, so an old one counts only if the pods say nothing.
    return min(troubles, key=lambda trouble: order.index(trouble.outlook), default=refusal)


def lacks_pods(workload: Object, pods: Iterable[Object]) -> bool:
    """Whether a StatefulSet, DaemonSet or Job has fewer pods than it wants."""
    spec: Object = workload["spec"]
    there = sum(not is_over(pod) for pod in pods)
    match workload["kind"]:
        case "StatefulSet":
            wanted = spec.get("replicas", 1)
        case "DaemonSet":
            wanted = _part(workload, "status").get("desiredNumberScheduled", 0)
        case _:
            wanted = 1
    return there < wanted


def newest_replica_set(workload: Object, replica_sets: Iterable[Object]) -> Object | None:
    """The ReplicaSet of a Deployment's current revision."""
    wanted = _part(workload["metadata"], "annotations").get(REVISION)
    uid = workload["metadata"].get("uid")
    for obj in replica_sets:
        metadata = obj["metadata"]
        owners = {owner.get("uid") for owner in _items(metadata, "ownerReferences")}
        if uid in owners and _part(metadata, "annotations").get(REVISION) == wanted:
            return obj
    return None


def newest_pods(
    workload: Object, pods: Iterable[Object], replica_set: Object | None = None
) -> list[Object]:
    """The pods of a workload's newest revision."""
    found = list(pods)
    key, wanted = CONTROLLER_HASH, None
    if replica_set is not None:
        key, wanted = POD_HASH, _part(replica_set["metadata"], "labels").get(POD_HASH)
    elif workload["kind"] == "StatefulSet":
        wanted = _part(workload, "status").get("updateRevision")
    elif workload["kind"] == "DaemonSet" and found:
        # Its status does not name the revision, but its newest pod does.
        last = max(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
        wanted = _label(last, key)
    return [pod for pod in found if wanted is None or _label(pod, key) == wanted]


def _label(pod: Object, key: str) -> str | None:
    return _part(pod["metadata"], "labels").get(key)


# Patience


class Patience:
    """How long a wait tolerates troubles; create one for each wait.

    Args:
        lasting: seconds, see `LASTING`.
        crashes: restarts, see `CRASHES`.
    """

    def __init__(self, lasting: float = LASTING, crashes: int = CRASHES) -> None:
        self._lasting = lasting
        self._crashes = crashes
        self._since: dict[str, float] = {}
        self._first: dict[str, int] = {}

    def is_over(self, workload: str, trouble: Trouble | None, now: float) -> bool:
        """Whether waiting for a workload can no longer help.

        Args:
            trouble: what holds it up now; None if nothing does.
            now: seconds of a monotonic clock.
        """
        if trouble is None or trouble.outlook == "passing":
            self._since.pop(workload, None)
            return False
        if trouble.outlook == "hopeless":
            return True
        is_long = now - self._since.setdefault(workload, now) >= self._lasting
        if trouble.outlook == "lasting":
            return is_long
        # Restarts before the wait say nothing about what has changed since.
        first = self._first.setdefault(trouble.subject, trouble.crashes)
        is_loop = trouble.is_down and trouble.crashes >= max(self._crashes, first + 1)
        return is_long and is_loop
