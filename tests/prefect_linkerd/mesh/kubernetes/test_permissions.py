"""All missing permissions are named at once: for reads, and for writes that come later."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, PreflightFailed
from prefect_linkerd.mesh.helm.records import read_releases
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.permissions import (
    EVERYTHING,
    Permission,
    denied,
    in_words,
    naming_all_missing,
)
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.preflight import permissions
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.mesh.uninstall.snapshot import read_uninstall
from tests.support.identities import as_account


def test_the_verbs_of_a_resource_are_said_together() -> None:
    found = [Permission(verb, "deployments", "apps", "linkerd") for verb in ("create", "get")]
    found.append(Permission("list", "secrets"))
    assert in_words(found) == (
        "this identity may not create, get deployments.apps in namespace linkerd; "
        "list secrets in the cluster"
    )


class Answering:
    """An API server that allows some permissions and records what it was asked."""

    def __init__(self, *allowed: Permission) -> None:
        self.allows, self.asked = set(allowed), list[Permission]()

    def allowed(
        self, verb: str, resource: str, *, group: str = "", namespace: str = "", name: str = ""
    ) -> bool:
        one = Permission(verb, resource, group, namespace, name)
        self.asked.append(one)
        return one in self.allows


def test_what_is_allowed_everywhere_is_asked_once() -> None:
    everywhere = Permission("patch", "deployments", "apps")
    asked = [replace(everywhere, namespace=f"apps-{n}") for n in range(30)]
    more = Permission("list", "secrets", namespace="linkerd")
    server = Answering(everywhere, more)
    assert denied(cast("Cluster", server), [*asked, more]) == []
    assert server.asked == [everywhere, more]


def test_what_is_allowed_in_some_namespaces_is_asked_in_each() -> None:
    everywhere = Permission("patch", "deployments", "apps")
    asked = [replace(everywhere, namespace=f"apps-{n}") for n in range(3)]
    server = Answering(*asked[:2])
    assert denied(cast("Cluster", server), [*asked, asked[2]]) == [asked[2]]
    assert server.asked[0] == everywhere
    assert sorted(server.asked[1:], key=str) == asked


def test_who_may_do_everything_is_asked_once() -> None:
    asked = [Permission("get", f"kind-{n}s") for n in range(20)]
    server = Answering(EVERYTHING)
    assert denied(cast("Cluster", server), asked) == []
    assert server.asked == [EVERYTHING]
    other = Answering(*asked[1:])
    assert denied(cast("Cluster", other), asked) == asked[:1]


def test_who_may_do_everything_may_do_it_by_the_api_server(
    cluster: Cluster, namespace: str
) -> None:
    who = {"name": "nobody", "namespace": namespace}
    cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": who})
    asked = permissions(MeshConfig())
    assert denied(cluster, asked) == []
    assert denied(as_account(cluster, namespace, "nobody"), asked) == list(dict.fromkeys(asked))


def test_one_refused_read_names_everything(cluster: Cluster, namespace: str) -> None:
    who = {"name": "nobody", "namespace": namespace}
    cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": who})
    nobody, config = as_account(cluster, namespace, "nobody"), MeshConfig()
    with (
        pytest.raises(PreflightFailed) as caught,
        naming_all_missing(nobody, "bootstrap of mesh m", lambda: permissions(config)),
    ):
        read_releases(nobody)
    for said in (
        "list secrets in the cluster",
        "create, get, patch, delete serviceaccounts in namespace linkerd",
        "create, list namespaces in the cluster",
    ):
        assert said in caught.value.found
    with pytest.raises(PreflightFailed) as caught:
        read_uninstall(Mesh(nobody, config), UninstallOptions(), "file anchor.key")
    assert "list pods in the cluster" in caught.value.found
    assert "delete configmaps prefect-linkerd-rotation in namespace linkerd" in caught.value.found
    # A permission that is not in the list is not reported as missing.
    with pytest.raises(ApiError), naming_all_missing(nobody, "x", lambda: ()):
        read_releases(nobody)
