"""Traefik's routes into the mesh: to emojivoto, and to the viz dashboard behind a password.

Sources: https://linkerd.io/2/tasks/using-ingress/#traefik and
https://linkerd.io/2/tasks/exposing-dashboard/#traefik
"""

from __future__ import annotations

import base64
import secrets

import bcrypt

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, InvalidInput
from prefect_linkerd.mesh.helm.own_objects import (
    OwnObject,
    conflict,
    ensure_own,
    find,
    foreign,
    read_foreign,
    unless_matches,
)
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Object
from prefect_linkerd.mesh.mesh import Mesh

API_VERSIONS = ("traefik.io/v1alpha1", "traefik.containo.us/v1alpha1")
"""Traefik's API versions, the preferred one first (the second is Traefik 2's)."""

HEADER_MIDDLEWARE = "l5d-header-middleware"
AUTH_MIDDLEWARE = "web-auth-middleware"
AUTH_SECRET = "web-ingress-auth"  # noqa: S105 the name of an object
APP_ROUTE = "emojivoto-web-ingress-route"
DASHBOARD_ROUTE = "web-ingress-route"


def choose_api_version(served: frozenset[str]) -> str:
    """The Traefik API that a cluster serves.

    Raises:
        InvalidInput: it serves neither.
    """
    for candidate in API_VERSIONS:
        if candidate in served:
            return candidate
    raise InvalidInput(
        "Traefik",
        expected=f"a cluster that serves {' or '.join(API_VERSIONS)}",
        found="neither",
        remedy="Turn traefik.install on, or install Traefik's CRDs.",
    )


def ingress_objects(config: MeshConfig, api_version: str) -> list[Object]:
    """Middlewares and routes, without the password.

    A route may use only the middlewares of its own namespace, so each namespace has its own.
    """
    objects: list[Object] = []
    domain, namespaces = config.cluster_domain, config.namespaces
    if config.emojivoto.enabled:
        app = namespaces.emojivoto
        objects += [
            override(api_version, HEADER_MIDDLEWARE, app, f"web-svc.{app}.svc.{domain}:80"),
            route(
                api_version, APP_ROUTE, app, "PathPrefix(`/`)", [HEADER_MIDDLEWARE], "web-svc", 80
            ),
        ]
    if _has_dashboard(config):
        host = config.viz.dashboard.host
        viz = namespaces.viz
        auth = {"basicAuth": {"secret": AUTH_SECRET, "removeHeader": True}}
        middlewares = [AUTH_MIDDLEWARE, HEADER_MIDDLEWARE]
        objects += [
            _object(api_version, "Middleware", AUTH_MIDDLEWARE, viz, auth),
            override(api_version, HEADER_MIDDLEWARE, viz, f"web.{viz}.svc.{domain}:8084"),
            route(api_version, DASHBOARD_ROUTE, viz, f"Host(`{host}`)", middlewares, "web", 8084),
        ]
    return objects


def override(api_version: str, name: str, namespace: str, target: str) -> Object:
    """The Middleware that sets the Service, as `host:port`, to which Linkerd's proxy routes."""
    headers = {"headers": {"customRequestHeaders": {"l5d-dst-override": target}}}
    return _object(api_version, "Middleware", name, namespace, headers)


def route(
    api_version: str,
    name: str,
    namespace: str,
    match: str,
    middlewares: list[str],
    service: str,
    port: int,
) -> Object:
    """The IngressRoute that routes requests by a rule, such as PathPrefix(`/`), to a Service."""
    rule = {
        "kind": "Rule",
        "match": match,
        "middlewares": [{"name": middleware} for middleware in middlewares],
        "services": [{"kind": "Service", "name": service, "port": port}],
    }
    obj = _object(api_version, "IngressRoute", name, namespace, {"routes": [rule]})
    obj["metadata"]["annotations"] = {"kubernetes.io/ingress.class": "traefik"}
    return obj


def _object(api_version: str, kind: str, name: str, namespace: str, spec: Object) -> Object:
    metadata = {"name": name, "namespace": namespace, "labels": MADE_HERE}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def own_ingress(config: MeshConfig, api_version: str) -> list[OwnObject]:
    """Routes and middlewares; somebody else's is used if it says the same."""
    return [
        OwnObject(obj, unless_matches({"spec": obj["spec"]}, _remedy(config, obj)))
        for obj in ingress_objects(config, api_version)
    ]


def _remedy(config: MeshConfig, obj: Object) -> str:
    """How to leave a route, with what it needs, to its owner."""
    if obj["metadata"]["namespace"] == config.namespaces.viz:
        return _NO_DASHBOARD
    return (
        "To leave the route to its owner, set traefik.enabled to false, which makes no routes; or "
        "name another namespace for the application (namespaces.emojivoto)."
    )


_NO_DASHBOARD = "To leave the dashboard's route to its owner, leave viz.dashboard.host empty."


def own_password(config: MeshConfig) -> OwnObject:
    """The Secret of the dashboard's password, without its content.

    Somebody else's is used if it has the key `users`, which Traefik's basicAuth reads, and the
    configuration sets no password.
    """
    metadata = {"name": AUTH_SECRET, "namespace": config.namespaces.viz, "labels": MADE_HERE}
    is_set = config.viz.dashboard.password is not None

    def advice(found: Object) -> str:
        is_usable = "users" in (found.get("data") or {})
        if is_usable and not is_set:
            return ""
        keep = "set no viz.dashboard.password, and add a key users to that Secret"
        return f"{_NO_DASHBOARD} To use the owner's password, {keep}."

    return OwnObject({"apiVersion": "v1", "kind": "Secret", "metadata": metadata}, advice)


def own_routes(config: MeshConfig, served: frozenset[str]) -> list[OwnObject]:
    """All objects of the ingress with its password; no routes if the cluster lacks their CRDs.

    Args:
        served: the API versions that the cluster serves.
    """
    if not config.traefik.enabled:
        return []
    api_version = next((each for each in API_VERSIONS if each in served), None)
    routes = own_ingress(config, api_version) if api_version is not None else []
    return [*routes, own_password(config)] if _has_dashboard(config) else routes


def _has_dashboard(config: MeshConfig) -> bool:
    return bool(config.viz.enabled and config.viz.dashboard.host)


def ensure_ingress(mesh: Mesh) -> list[Object]:
    """Applies the routes, and ensures the dashboard's password.

    Raises:
        InvalidInput: the cluster serves none of Traefik's APIs.
        OwnershipConflict: somebody else's object is in the way; nothing was written.
    """
    objects = own_ingress(mesh.config, choose_api_version(mesh.cluster.api_versions()))
    if _has_dashboard(mesh.config):
        for theirs in read_foreign(mesh.cluster, objects):
            raise conflict(theirs)
        _ensure_password(mesh)
    ensure_own(mesh.cluster, objects)
    return [own.wanted for own in objects]


def _ensure_password(mesh: Mesh) -> None:
    """Secret web-ingress-auth: `users` for Traefik, `username` and `password` for people.

    An existing one stays, unless the configuration sets another user or password.
    """
    dashboard, own = mesh.config.viz.dashboard, own_password(mesh.config)
    existing = find(mesh.cluster, own.wanted)
    if (theirs := foreign(own, existing)) is not None:
        if theirs.remedy:
            raise conflict(theirs)
        return
    wanted = dashboard.password.get_secret_value() if dashboard.password else None
    if existing is not None:
        data: dict[str, str] = existing.get("data") or {}
        kept = {key: base64.b64decode(value).decode() for key, value in data.items()}
        is_same_user = kept.get("username", dashboard.username) == dashboard.username
        if is_same_user and wanted in (None, kept.get("password")):
            return
        wanted = wanted or kept.get("password")
    password = wanted or secrets.token_urlsafe(18)
    content = {
        "users": htpasswd(dashboard.username, password),
        "username": dashboard.username,
        "password": password,
    }
    secret = {
        **own.wanted,
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in content.items()},
    }
    if existing is not None:
        mesh.cluster.apply(secret)
        return
    try:
        mesh.cluster.create(secret)
    except ApiError as error:
        # Another run was faster; its password is just as good.
        if error.status != 409:
            raise


def htpasswd(username: str, password: str) -> str:
    """A line of an htpasswd file with a bcrypt hash, which Traefik's basicAuth reads."""
    # bcrypt looks at no more than 72 bytes, and its library refuses longer ones.
    return f"{username}:{bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt()).decode()}"
