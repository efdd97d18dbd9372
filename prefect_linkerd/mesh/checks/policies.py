"""Policy resources that select nothing: they look like protection or routing but do nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems
from prefect_linkerd.mesh.kubernetes.client import Object, name_of
from prefect_linkerd.mesh.kubernetes.selector import matches
from prefect_linkerd.mesh.linkerd.facts import GATEWAY_API
from prefect_linkerd.mesh.snapshot.mesh import EXTENSION, Pod, Snapshot

POLICY = "policy.linkerd.io"
ROUTES = ((POLICY, "HTTPRoute"), (GATEWAY_API, "HTTPRoute"), (GATEWAY_API, "GRPCRoute"))

policies = Category[Snapshot]("pl-policies", "beyond")


@policies.check("pl-server-selects", "Servers select a port of a pod", "warning")
def server_selects(snapshot: Snapshot) -> Problems:
    for server in _of(snapshot, "Server"):
        spec: dict[str, Any] = server["spec"]
        if "podSelector" not in spec:
            # It selects external workloads.
            continue
        if _is_of_part_turned_off(server, snapshot):
            continue
        namespace = server["metadata"]["namespace"]
        pods = [
            pod
            for pod in snapshot.pods_in(namespace)
            if not pod.is_over and matches(spec["podSelector"], pod.labels)
        ]
        if not pods:
            text = "its podSelector matches no pod in its namespace"
        elif not any(_has_port(pod, spec["port"]) for pod in pods):
            text = f"none of the {len(pods)} pods that it selects has a port {spec['port']}"
        elif not any(pod.proxy is not None for pod in pods):
            text = f"none of the {len(pods)} pods that it selects has a proxy to enforce it"
        else:
            continue
        yield Problem(name_of(server), text, "Fix its podSelector or port, or delete it.")


@policies.check(
    "pl-server-authorization-selects", "ServerAuthorizations have a Server that exists", "warning"
)
def server_authorization_selects(snapshot: Snapshot) -> Problems:
    for authorization in _of(snapshot, "ServerAuthorization"):
        wanted: dict[str, Any] = authorization["spec"].get("server") or {}
        namespace = authorization["metadata"]["namespace"]
        servers = [s for s in _of(snapshot, "Server") if s["metadata"]["namespace"] == namespace]
        if "name" in wanted:
            there = any(server["metadata"]["name"] == wanted["name"] for server in servers)
            text = f"there is no Server/{namespace}/{wanted['name']}"
        else:
            there = any(
                matches(wanted.get("selector"), server["metadata"].get("labels") or {})
                for server in servers
            )
            text = "its selector matches no Server in its namespace"
        if not there:
            yield Problem(name_of(authorization), text, "Fix what it names, or delete it.")


@policies.check(
    "pl-authorization-policy-target", "AuthorizationPolicies have a target that exists", "warning"
)
def authorization_policy_target(snapshot: Snapshot) -> Problems:
    for policy in _of(snapshot, "AuthorizationPolicy"):
        namespace = policy["metadata"]["namespace"]
        target: dict[str, str] = policy["spec"]["targetRef"]
        if not _exists(snapshot, target, namespace):
            yield Problem(
                name_of(policy),
                f"its target {_reference(target, namespace)} does not exist",
                "Fix its targetRef, or delete it.",
            )


@policies.check(
    "pl-authorization-policy-authentication",
    "what AuthorizationPolicies require exists",
    "warning",
)
def authorization_policy_authentication(snapshot: Snapshot) -> Problems:
    for policy in _of(snapshot, "AuthorizationPolicy"):
        namespace = policy["metadata"]["namespace"]
        for reference in _list(policy["spec"], "requiredAuthenticationRefs"):
            place = reference.get("namespace") or namespace
            if _extension(policy) and _is_turned_off(reference["name"], place, snapshot):
                # For example, jaeger's chart admits viz's Prometheus even if there is none.
                continue
            if not _exists(snapshot, reference, namespace):
                yield Problem(
                    name_of(policy),
                    f"it requires {_reference(reference, namespace)}, which does not exist, "
                    "so it admits no one",
                    "Create what it requires, or fix the reference.",
                )


@policies.check("pl-route-parent", "the mesh's routes have parents that exist", "warning")
def route_parent(snapshot: Snapshot) -> Problems:
    for route, parents in _mesh_routes(snapshot):
        namespace = route["metadata"]["namespace"]
        for parent in parents:
            if not _exists(snapshot, parent, namespace):
                yield Problem(
                    name_of(route),
                    f"its parent {_reference(parent, namespace)} does not exist",
                    "Fix its parentRefs, or delete it.",
                )


@policies.check("pl-route-backend", "the mesh's routes have backends that exist", "warning")
def route_backend(snapshot: Snapshot) -> Problems:
    services = {f"{s.namespace}/{s.name}": s for s in snapshot.services}
    for route, _parents in _mesh_routes(snapshot):
        namespace = route["metadata"]["namespace"]
        for rule in _list(route["spec"], "rules"):
            for backend in _list(rule, "backendRefs"):
                if backend.get("kind", "Service") != "Service" or backend.get("group"):
                    continue
                key = f"{backend.get('namespace') or namespace}/{backend['name']}"
                service = services.get(key)
                if service is None:
                    text = f"its backend Service/{key} does not exist"
                elif backend.get("port") not in {None, *(p.port for p in service.ports)}:
                    text = f"its backend Service/{key} has no port {backend['port']}"
                else:
                    continue
                remedy = "Fix its backendRefs: requests to that backend get errors."
                yield Problem(name_of(route), text, remedy)


def _is_of_part_turned_off(server: Object, snapshot: Snapshot) -> bool:
    """Whether a Server belongs to a part of an extension that the chart's values turn off.

    For example, viz's chart creates Server prometheus-admin even without a Prometheus.
    """
    selected: dict[str, str] = server["spec"]["podSelector"].get("matchLabels") or {}
    part, namespace = selected.get("component", ""), server["metadata"]["namespace"]
    return _extension(server) != "" and _is_turned_off(part, namespace, snapshot)


def _is_turned_off(part: str, namespace: str, snapshot: Snapshot) -> bool:
    """Whether the extension in a namespace is installed without a part, such as `prometheus`.

    The chart's value `enabled` under the part's name decides.
    """
    extension = _extension(snapshot.namespaces.get(namespace) or {"metadata": {}})
    switch: object = snapshot.release_values(f"linkerd-{extension}", namespace).get(part)
    return isinstance(switch, dict) and cast("dict[str, Any]", switch).get("enabled") is False


def _extension(obj: Object) -> str:
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return labels.get(EXTENSION, "")


def _of(snapshot: Snapshot, kind: str, group: str = POLICY) -> tuple[Object, ...]:
    return snapshot.policies.get((group, kind), ())


def _list(obj: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return obj.get(key) or []


def _has_port(pod: Pod, port: int | str) -> bool:
    # Containers need not declare a port to be selected by number, only by name.
    if isinstance(port, int):
        return True
    return any(port == name for container in pod.containers for name, _ in container.ports)


def _mesh_routes(snapshot: Snapshot) -> Iterator[tuple[Object, list[dict[str, Any]]]]:
    """Routes, each with the parents that Linkerd reads: Services and Servers."""
    for group, kind in ROUTES:
        for route in _of(snapshot, kind, group):
            parents = [
                parent
                for parent in _list(route["spec"], "parentRefs")
                if (parent.get("group", GATEWAY_API), parent.get("kind", "Gateway"))
                in (("", "Service"), ("core", "Service"), (POLICY, "Server"))
            ]
            if parents:
                yield route, parents


def _exists(snapshot: Snapshot, reference: Mapping[str, str], namespace: str) -> bool:
    """Whether a referenced object exists; kinds that the snapshot does not read are assumed to."""
    group, kind, name = reference.get("group", ""), reference["kind"], reference["name"]
    namespace = reference.get("namespace") or namespace
    if kind == "Namespace":
        return name in snapshot.namespaces
    if (group, kind) in (("", "Service"), ("core", "Service")):
        return any((s.namespace, s.name) == (namespace, name) for s in snapshot.services)
    if kind == "ServiceAccount":
        # Read only in the mesh's own namespaces; elsewhere they are assumed to exist.
        names = snapshot.config.namespaces
        is_known = namespace in names.of_linkerd
        return not is_known or f"{namespace}/{name}" in snapshot.service_accounts
    found = snapshot.policies.get((group, kind))
    if found is None:
        return (group, kind) not in ((POLICY, "Server"), *ROUTES)
    return any(
        (obj["metadata"]["namespace"], obj["metadata"]["name"]) == (namespace, name)
        for obj in found
    )


def _reference(reference: Mapping[str, str], namespace: str) -> str:
    if reference["kind"] == "Namespace":
        return f"Namespace/{reference['name']}"
    return f"{reference['kind']}/{reference.get('namespace') or namespace}/{reference['name']}"
