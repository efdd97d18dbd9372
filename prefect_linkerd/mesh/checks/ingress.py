"""Ingress objects without a working backend: requests through them get errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems
from prefect_linkerd.mesh.kubernetes.client import Object, name_of
from prefect_linkerd.mesh.snapshot.mesh import Service, Snapshot

TRAEFIK = ("traefik.io", "traefik.containo.us")

ingress = Category[Snapshot]("pl-ingress", "beyond")

Backend = tuple[str, str, int | str | None]
"""Namespace and name of a Service, and its port by number or name."""


@ingress.check("pl-ingress-backend", "ingress objects route to Services that exist", "warning")
def ingress_backend(snapshot: Snapshot) -> Problems:
    services = _services(snapshot)
    for obj, (namespace, name, port) in _backends(snapshot):
        service = services.get((namespace, name))
        if service is None:
            text = f"it routes to Service/{namespace}/{name}, which does not exist"
        elif service.ports and port not in {None, *_ports(service)}:
            text = f"it routes to port {port} of Service/{namespace}/{name}, which has no such port"
        else:
            continue
        yield Problem(name_of(obj), text, "Fix its backend, or delete it.")


@ingress.check("pl-ingress-endpoints", "ingress objects route to pods that are ready", "warning")
def ingress_endpoints(snapshot: Snapshot) -> Problems:
    services = _services(snapshot)
    for obj, (namespace, name, _port) in _backends(snapshot):
        service = services.get((namespace, name))
        # Without a selector, something else manages the endpoints, which need not be pods.
        if service is None or not service.selector or service.type == "ExternalName":
            continue
        if not snapshot.endpoints.get(f"{namespace}/{name}"):
            yield Problem(
                name_of(obj),
                f"it routes to Service/{namespace}/{name}, which has no ready pod",
                "Look at the pods that the Service selects.",
            )


@ingress.check("pl-ingress-middleware", "IngressRoutes use Middlewares that exist", "warning")
def ingress_middleware(snapshot: Snapshot) -> Problems:
    there = {
        (obj["metadata"]["namespace"], obj["metadata"]["name"])
        for group in TRAEFIK
        for obj in snapshot.ingresses.get((group, "Middleware"), ())
    }
    for obj, route in _routes(snapshot):
        own = obj["metadata"]["namespace"]
        for used in _list(route, "middlewares"):
            # `name@provider` refers to another Traefik provider.
            namespace, name = used.get("namespace") or own, used["name"]
            if "@" not in name and (namespace, name) not in there:
                yield Problem(
                    name_of(obj),
                    f"it uses Middleware/{namespace}/{name}, which does not exist, so Traefik "
                    "does not serve the route",
                    "Create the Middleware, or remove it from the route.",
                )


def _services(snapshot: Snapshot) -> dict[tuple[str, str], Service]:
    return {(service.namespace, service.name): service for service in snapshot.services}


def _ports(service: Service) -> Iterator[int | str]:
    for port in service.ports:
        yield port.port
        yield port.name


def _list(obj: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return obj.get(key) or []


def _routes(snapshot: Snapshot) -> Iterator[tuple[Object, dict[str, Any]]]:
    for group in TRAEFIK:
        for obj in snapshot.ingresses.get((group, "IngressRoute"), ()):
            for route in _list(obj["spec"], "routes"):
                yield obj, route


def _backends(snapshot: Snapshot) -> Iterator[tuple[Object, Backend]]:
    for obj, route in _routes(snapshot):
        for used in _list(route, "services"):
            if used.get("kind", "Service") == "Service" and "@" not in used["name"]:
                namespace = used.get("namespace") or obj["metadata"]["namespace"]
                yield obj, (namespace, used["name"], used.get("port"))
    for obj in snapshot.ingresses.get(("networking.k8s.io", "Ingress"), ()):
        spec: dict[str, Any] = obj["spec"]
        backends = [spec["defaultBackend"]] if "defaultBackend" in spec else []
        for rule in _list(spec, "rules"):
            backends += [path["backend"] for path in _list(rule.get("http") or {}, "paths")]
        for backend in backends:
            if service := backend.get("service"):
                port: dict[str, Any] = service.get("port") or {}
                yield (
                    obj,
                    (
                        obj["metadata"]["namespace"],
                        service["name"],
                        port.get("number") or port.get("name"),
                    ),
                )
