"""The proxies of the mesh's pods, and the labels and annotations of pods and Services.

Source: linkerd2 `pkg/healthcheck` (healthcheck.go and healthcheck_labels.go), category
linkerd-data-plane.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems
from prefect_linkerd.mesh.checks.versions import proxies_differ, proxies_outdated
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.snapshot.mesh import Pod, Service, ServicePort, Snapshot

data_plane = Category[Snapshot]("linkerd-data-plane", "proxy")

OPAQUE_PORTS = "config.linkerd.io/opaque-ports"
INJECT = "linkerd.io/inject"
EXPORTED = "mirror.linkerd.io/exported"
CONFIG_PREFIXES = ("config.linkerd.io", "config.alpha.linkerd.io")


def not_running(snapshot: Snapshot, pods: Sequence[Pod], place: str) -> Problems:
    """The pods that do not run with a ready proxy; an empty list of pods is a problem too.

    Source: linkerd2 `pkg/healthcheck`, CheckPodsRunning.

    Args:
        place: where the pods are, for messages.
    """
    if not pods:
        yield Problem(place, "it has no pod with a proxy", "Look at its workloads' pods.")
    over = {"Completed", "NodeShutdown", "Shutdown"}
    over |= {"Terminated"} if release_facts(snapshot.version).counts_terminated_as_over else set()
    for pod in pods:
        if pod.status in over:
            continue
        if pod.status not in ("Running", "Evicted"):
            yield Problem(pod.subject, f"its status is {pod.status}", "Look at its events.")
        elif pod.proxy is None or not pod.proxy.ready:
            text = "its container linkerd-proxy is not ready"
            yield Problem(pod.subject, text, "Look at the proxy's log.")


@data_plane.check("l5d-data-plane-ready", "data plane proxies are ready", fatal=True)
def data_plane_ready(snapshot: Snapshot) -> Problems:
    return not_running(snapshot, snapshot.labelled, "the mesh")


@data_plane.check("l5d-data-plane-version", "data plane is up-to-date", "warning")
def data_plane_version(snapshot: Snapshot) -> Problems:
    return proxies_outdated(snapshot, snapshot.labelled)


@data_plane.check("l5d-data-plane-cli-version", "data plane and cli versions match", "warning")
def data_plane_cli_version(snapshot: Snapshot) -> Problems:
    return proxies_differ(snapshot, snapshot.labelled)


@data_plane.check(
    "l5d-data-plane-pod-labels", "data plane pod labels are configured correctly", "warning"
)
def data_plane_pod_labels(snapshot: Snapshot) -> Problems:
    for pod in snapshot.labelled:
        yield from _labels_to_be_annotations(pod.subject, pod.labels)


@data_plane.check(
    "l5d-data-plane-services-labels",
    "data plane service labels are configured correctly",
    "warning",
)
def data_plane_services_labels(snapshot: Snapshot) -> Problems:
    for service in snapshot.services:
        yield from _labels_to_be_annotations(service.subject, service.labels)


def _labels_to_be_annotations(subject: str, labels: Mapping[str, str]) -> Problems:
    wrong = [key for key in labels if key.startswith(CONFIG_PREFIXES) or key == INJECT]
    if wrong:
        text = f"{', '.join(sorted(wrong))}: as a label it does nothing"
        yield Problem(subject, text, "Make it an annotation.")


@data_plane.check(
    "l5d-data-plane-services-annotations",
    "data plane service annotations are configured correctly",
    "warning",
)
def data_plane_services_annotations(snapshot: Snapshot) -> Problems:
    for service in snapshot.services:
        if EXPORTED in service.annotations:
            text = f"{EXPORTED}: as an annotation it does nothing"
            yield Problem(service.subject, text, "Make it a label.")


@data_plane.check(
    "linkerd-opaque-ports-definition", "opaque ports are properly annotated", "warning"
)
def linkerd_opaque_ports_definition(snapshot: Snapshot) -> Problems:
    pods = {(pod.namespace, pod.name): pod for pod in snapshot.pods}
    for service in snapshot.services:
        if service.cluster_ip == "None":
            continue
        endpoints = snapshot.endpoints.get(f"{service.namespace}/{service.name}", ())
        for name in sorted(endpoints):
            pod = pods.get((service.namespace, name))
            if pod is not None and (text := opaque_mismatch(service, pod)):
                yield Problem(service.subject, text, f"Give both the same {OPAQUE_PORTS}.")


def opaque_mismatch(service: Service, pod: Pod) -> str:
    """How a Service and a pod behind it disagree on opaque ports; empty if they agree.

    Clients' proxies read the Service's annotation, the pod's own proxy reads the pod's: if only one
    marks a port opaque, one end speaks HTTP and the other does not. Source: linkerd2
    `pkg/healthcheck`, misconfiguredOpaqueAnnotation.
    """
    on_service, on_pod = _opaque_ports(service.annotations), _opaque_ports(pod.annotations)
    for text in on_service:
        if not text.isdecimal():
            return f"{text!r} in its annotation is not a port number"
        if wanted := _not_opaque_on_pod(service, pod, int(text), on_pod):
            return f"its port {text} is opaque, and port {wanted} of {pod.subject} is not"
    for text in on_pod:
        if text in on_service:
            continue
        if not text.isdecimal():
            return f"{text!r} in the annotation of {pod.subject} is not a port number"
        port = _opaque_behind(service, pod, int(text))
        if port is not None and str(port.port) not in on_service:
            return f"its port {port.port} is not opaque, and port {text} of {pod.subject} is"
    return ""


def _opaque_ports(annotations: Mapping[str, str]) -> list[str]:
    annotation = annotations.get(OPAQUE_PORTS)
    return annotation.split(",") if annotation is not None else []


def _not_opaque_on_pod(
    service: Service, pod: Pod, port: int, on_pod: Collection[str]
) -> str | None:
    """The pod's port that a Service's opaque port targets, if it is not opaque on the pod."""
    for each in service.ports:
        if each.port != port:
            continue
        for name, number in _container_ports(pod):
            if target_number(each) == number or target_name(each) == name:
                wanted = str(number if target_name(each) else target_number(each))
                return None if wanted in on_pod else wanted
    return None


def _opaque_behind(service: Service, pod: Pod, number: int) -> ServicePort | None:
    """The Service's port that targets a port of the pod, matched by number, then by name."""
    for port in service.ports:
        if target_number(port) == number:
            return port
    names = {name for name, each in _container_ports(pod) if each == number and name}
    return next((port for port in service.ports if target_name(port) in names), None)


def target_number(port: ServicePort) -> int:
    """The number of the port that a Service's port targets; 0 if it targets a name."""
    if isinstance(port.target, str):
        return 0
    return port.target or port.port


def target_name(port: ServicePort) -> str:
    """The name of the port that a Service's port targets; empty if it targets a number.

    So a numeric target matches every unnamed container port, as in linkerd.
    """
    return port.target if isinstance(port.target, str) else ""


def _container_ports(pod: Pod) -> Iterator[tuple[str, int]]:
    return (port for container in pod.containers for port in container.ports)
