"""What linkerd requires of an extension's pods: present, injected, running, proxies healthy.

Source: linkerd2 `pkg/healthcheck/healthcheck.go` (CheckForPods, CheckIfDataPlanePodsExist,
CheckPodsRunning and CheckProxyHealth).
"""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.checks.check import Problem, Problems
from prefect_linkerd.mesh.checks.config import AGAIN
from prefect_linkerd.mesh.checks.data_plane import not_running
from prefect_linkerd.mesh.checks.identity import stale_bundles
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.snapshot.mesh import EXTENSION, Pod, Snapshot

COMPONENT = "linkerd.io/control-plane-component"


def of_extension(snapshot: Snapshot, name: str, namespace: str) -> list[Pod]:
    """An extension's own pods; only those with its label, in versions that select by it."""
    is_labelled = release_facts(snapshot.version).finds_pods_by_label
    return [
        pod
        for pod in snapshot.pods_in(namespace)
        if not is_labelled or pod.labels.get(EXTENSION) == name
    ]


def not_injected(pods: Iterable[Pod]) -> Problems:
    """The pods without a proxy."""
    for pod in pods:
        if pod.proxy is None:
            text = "it has no container linkerd-proxy"
            yield Problem(pod.subject, text, "Restart its workload once the injector responds.")


def absent(pods: Iterable[Pod], components: Iterable[str], namespace: str) -> Problems:
    """A problem for each component without pods."""
    there = {pod.labels.get(label) for pod in pods for label in (COMPONENT, "component")}
    for component in components:
        if component not in there:
            yield Problem(
                f"Deployment/{namespace}/{component}",
                "it has no pods",
                "Look at the events of the Deployment and its ReplicaSet. If it is gone: " + AGAIN,
            )


def components_not_running(
    snapshot: Snapshot, name: str, namespace: str, components: Iterable[str]
) -> Problems:
    """The components without pods; if all have pods, those that do not run."""
    own = of_extension(snapshot, name, namespace)
    lacking = list(absent(own, components, namespace))
    yield from lacking or not_running(snapshot, own, f"Namespace/{namespace}")


def unhealthy_proxies(snapshot: Snapshot, namespace: str) -> Problems:
    """A namespace's meshed pods that do not run; if all do, those with a stale trust bundle."""
    meshed = [pod for pod in snapshot.pods_in(namespace) if pod.control_plane]
    late = list(not_running(snapshot, meshed, f"Namespace/{namespace}"))
    yield from late or stale_bundles(snapshot, namespace)
