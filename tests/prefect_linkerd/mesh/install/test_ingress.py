"""Routes for both of Traefik's API groups, and the dashboard's password."""

from __future__ import annotations

import base64
from typing import Any

import bcrypt
import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.install.ingress import (
    API_VERSIONS,
    choose_api_version,
    ensure_ingress,
    htpasswd,
    ingress_objects,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from tests.support.crds import crd
from tests.support.waiting import eventually


def config(app: str = "emojivoto", viz: str = "linkerd-viz", **dashboard: Any) -> MeshConfig:
    return MeshConfig.model_validate(
        {
            "profile": "demo",
            "cluster_domain": "k8s.example.org",
            "namespaces": {"emojivoto": app, "viz": viz},
            "viz": {"dashboard": {"host": "viz.example.com", **dashboard}},
        }
    )


@pytest.mark.parametrize("api_version", API_VERSIONS)
def test_every_route_names_a_middleware_of_its_own_namespace(api_version: str) -> None:
    objects = ingress_objects(config(), api_version)
    assert {obj["apiVersion"] for obj in objects} == {api_version}
    there = {(o["kind"], o["metadata"]["namespace"], o["metadata"]["name"]) for o in objects}
    for obj in objects:
        for route in obj["spec"].get("routes", []):
            for middleware in route["middlewares"]:
                namespace = obj["metadata"]["namespace"]
                assert ("Middleware", namespace, middleware["name"]) in there


def test_the_override_leads_to_the_service_by_its_full_name() -> None:
    targets = [
        obj["spec"]["headers"]["customRequestHeaders"]["l5d-dst-override"]
        for obj in ingress_objects(config(), API_VERSIONS[0])
        if "headers" in obj["spec"]
    ]
    assert targets == [
        "web-svc.emojivoto.svc.k8s.example.org:80",
        "web.linkerd-viz.svc.k8s.example.org:8084",
    ]


def test_the_newer_group_is_preferred() -> None:
    newer, older = API_VERSIONS
    assert choose_api_version(frozenset({newer, older})) == newer
    assert choose_api_version(frozenset({older})) == older
    with pytest.raises(InvalidInput, match=r"Traefik's CRDs"):
        choose_api_version(frozenset({"v1"}))


def test_the_password_is_hashed() -> None:
    user, _, hashed = htpasswd("admin", "hunter2").partition(":")
    assert user == "admin"
    assert bcrypt.checkpw(b"hunter2", hashed.encode())


def secret(cluster: Cluster, namespace: str) -> dict[str, str]:
    found = cluster.get("v1", "Secret", "web-ingress-auth", namespace)
    assert found is not None
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


@pytest.mark.parametrize("api_version", API_VERSIONS[::-1])
def test_ingress_is_made_once_and_then_left_alone(
    cluster: Cluster, namespace: str, api_version: str
) -> None:
    group = api_version.split("/")[0]
    for kind in ("IngressRoute", "Middleware"):
        cluster.apply(crd(group, kind))
    kinds = ("IngressRoute", "Middleware")
    eventually(lambda: all(cluster.serves(api_version, kind) for kind in kinds), every=0.1)
    extra = f"{namespace}-viz"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": extra}})
    try:
        mesh = config(namespace, extra)
        first = ensure_ingress(Mesh(cluster, mesh))
        assert {obj["apiVersion"] for obj in first} == {api_version}
        kept = secret(cluster, extra)
        assert bcrypt.checkpw(kept["password"].encode(), kept["users"].partition(":")[2].encode())

        def versions() -> list[str]:
            names = [(o["kind"], o["metadata"]["name"], o["metadata"]["namespace"]) for o in first]
            found = [cluster.get(api_version, *name) for name in names]
            found.append(cluster.get("v1", "Secret", "web-ingress-auth", extra))
            return [obj["metadata"]["resourceVersion"] for obj in found if obj]

        before = versions()
        ensure_ingress(Mesh(cluster, mesh))
        assert versions() == before
        assert len(before) == len(first) + 1

        ensure_ingress(Mesh(cluster, config(namespace, extra, password="another one")))
        changed = secret(cluster, extra)
        assert changed["password"] == "another one"
        assert bcrypt.checkpw(b"another one", changed["users"].partition(":")[2].encode())
    finally:
        cluster.delete("v1", "Namespace", extra)
        for kind in ("ingressroutes", "middlewares"):
            cluster.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{kind}.{group}")
