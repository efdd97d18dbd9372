"""Workloads that should be meshed and are not, and pods that are missing or not ready."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.selector import matches
from prefect_linkerd.mesh.kubernetes.stall import refusal_remedy
from prefect_linkerd.mesh.snapshot.mesh import Pod, Snapshot, WorkloadState

INJECT = "linkerd.io/inject"
INJECTED = ("enabled", "ingress")
INJECTOR = "linkerd-proxy-injector-webhook-config"

workloads = Category[Snapshot]("pl-workloads", "beyond")


@workloads.check("pl-workload-meshed", "workloads that ask for a proxy have one", "warning")
def workload_meshed(snapshot: Snapshot) -> Problems:
    bare: dict[str, list[Pod]] = defaultdict(list)
    for pod in snapshot.pods:
        if pod.proxy is None and _asks_for_proxy(pod, snapshot):
            bare[_workload(pod)].append(pod)
    refused = {str(key): said for key, said in _refused(snapshot).items()}
    for subject, pods in sorted(bare.items()):
        text = f"{_count(pods)} without a proxy, though annotation {INJECT} asks for one"
        remedy = "Restart it once the injector responds; if that fails, look at the injector's log."
        if said := refused.get(subject):
            text, remedy = f"{text}, and new ones are refused: {said}", refusal_remedy(said)
        yield Problem(subject, text, remedy)


@workloads.check("pl-pod-ready", "the mesh's pods are ready", "warning")
def pod_ready(snapshot: Snapshot) -> Problems:
    late: dict[str, list[Pod]] = defaultdict(list)
    for pod in _of_mesh(snapshot):
        if not pod.is_ready:
            late[_workload(pod)].append(pod)
    for subject, pods in sorted(late.items()):
        yield Problem(
            subject,
            f"{_count(pods)} not ready: {pods[0].name}: {_reason(pods[0])}",
            "Look at the pod with `kubectl describe pod` and at its containers' logs.",
        )


@workloads.check("pl-workload-pods", "the mesh's workloads have all their pods", "warning")
def workload_pods(snapshot: Snapshot) -> Problems:
    meshed = {pod.owner for pod in snapshot.meshed}
    own = _own_namespaces(snapshot)
    there, refused = _pods_there(snapshot), _refused(snapshot)
    for workload in snapshot.workloads:
        key = _key(workload)
        is_of_mesh = workload.namespace in own or key in meshed
        if (said := refused.get(key)) and (is_of_mesh or _wants_proxy(workload, snapshot)):
            yield Problem(
                workload.subject, f"its new pods are refused: {said}", refusal_remedy(said)
            )
        elif is_of_mesh and there[key] < workload.wanted:
            reason = f": {workload.failure}" if workload.failure else ""
            yield Problem(
                workload.subject,
                f"it has {there[key]} of {workload.wanted} pods{reason}",
                "Look at the events of its ReplicaSet: a quota, a webhook or a node refuses them.",
            )


def _pods_there(snapshot: Snapshot) -> dict[Workload, int]:
    there: dict[Workload, int] = defaultdict(int)
    for pod in snapshot.pods:
        if pod.owner is not None and not pod.is_over:
            there[pod.owner] += 1
    return there


def _refused(snapshot: Snapshot) -> dict[Workload, str]:
    """The workloads whose new pods are refused now, each with the reason."""
    there = _pods_there(snapshot)
    found: dict[Workload, str] = {}
    for workload in snapshot.workloads:
        said = workload.refusal
        # An event remains even after the pods have been created.
        if workload.kind != "Deployment" and there[_key(workload)] < workload.wanted:
            said = snapshot.refusals.get(_key(workload), "")
        if said:
            found[_key(workload)] = said
    return found


def _key(workload: WorkloadState) -> Workload:
    return Workload(workload.kind, workload.namespace, workload.name)


def _asks_for_proxy(pod: Pod, snapshot: Snapshot) -> bool:
    """Whether the injector would inject a pod, by its annotations and the webhook's selector.

    Source: linkerd2 `pkg/inject/report.go` (Injectable).
    """
    if pod.is_over or pod.host_network or any(c.has_udp for c in pod.containers):
        return False
    return _is_injected(pod.annotations, pod.namespace, snapshot)


def _wants_proxy(workload: WorkloadState, snapshot: Snapshot) -> bool:
    """Whether the injector would inject the pods that a workload creates."""
    return not workload.host_network and _is_injected(
        workload.pod_annotations, workload.namespace, snapshot
    )


def _is_injected(own: Mapping[str, str], namespace: str, snapshot: Snapshot) -> bool:
    metadata: dict[str, Any] = (snapshot.namespaces.get(namespace) or {}).get("metadata") or {}
    annotations: dict[str, str] = metadata.get("annotations") or {}
    if (own.get(INJECT) or annotations.get(INJECT)) not in INJECTED:
        return False
    injector = snapshot.mutating_webhooks.get(INJECTOR) or {}
    webhooks: list[dict[str, Any]] = injector.get("webhooks") or []
    return all(
        matches(webhook.get("namespaceSelector"), metadata.get("labels") or {})
        for webhook in webhooks
    )


def _own_namespaces(snapshot: Snapshot) -> frozenset[str]:
    names = snapshot.config.namespaces
    return frozenset(names.of_linkerd)


def _of_mesh(snapshot: Snapshot) -> Iterator[Pod]:
    """The meshed pods, and all pods in Linkerd's own namespaces."""
    own, control_plane = _own_namespaces(snapshot), snapshot.config.namespaces.linkerd
    for pod in snapshot.pods:
        is_meshed = pod.proxy is not None and pod.control_plane == control_plane
        if (is_meshed or pod.namespace in own) and not pod.is_over:
            yield pod


def _workload(pod: Pod) -> str:
    return str(pod.owner) if pod.owner else pod.subject


def _count(pods: list[Pod]) -> str:
    return "1 pod is" if len(pods) == 1 else f"{len(pods)} pods are"


def _reason(pod: Pod) -> str:
    """The most specific reason: a container's problem, else a condition's, else the pod's."""
    for container in pod.containers:
        if container.trouble:
            return f"{container.name} {container.trouble}"
    for condition in pod.conditions:
        if condition.status != "True" and condition.reason:
            return f"{condition.reason}: {condition.message}".strip(": ")
    return pod.reason or pod.phase
