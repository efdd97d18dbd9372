"""Each reading flow with exactly its role, by a ServiceAccount's token, on a complete mesh."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from prefect_linkerd.deployments.grants import Grant
from prefect_linkerd.deployments.roles import HOME, grants_of, manifests
from prefect_linkerd.flows.check_certificates import check_certificates
from prefect_linkerd.flows.verify_mesh import verify_mesh
from prefect_linkerd.mesh.adoption import read_adoption
from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.errors import ApiError, MeshUnhealthy
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.report.report import verify
from prefect_linkerd.mesh.snapshot.expiry import read_expiries
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
from prefect_linkerd.server.prefect_server import PrefectServer
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from tests.prefect_linkerd.mesh.checks.faults import created
from tests.support.identities import as_account
from tests.support.installed import DEFAULT, SCOPES, InstalledMesh, on
from tests.support.prefect_servers import on_server

on_a_mesh = pytest.mark.parametrize("mesh", [on(DEFAULT)], indirect=True, scope="package")

Identity = Callable[[str, bool], Cluster]


@pytest.fixture
def identity(mesh: InstalledMesh) -> Iterator[Identity]:
    """The cluster as a flow's ServiceAccount sees it, with or without the flow's role."""
    with ExitStack() as stack:
        home = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}}
        stack.enter_context(created(mesh.cluster, home))

        def make(flow: str, has_role: bool) -> Cluster:
            account, *rest = manifests(flow, mesh.config)
            stack.enter_context(created(mesh.cluster, account, *(rest if has_role else [])))
            return as_account(mesh.cluster, HOME, account["metadata"]["name"])

        yield make


def settled(look: Callable[[], Any], expected: Any) -> None:
    """Waits until the API server's authorizer has picked up a change of roles."""
    deadline = time.monotonic() + 30
    while (found := look()) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def block(mesh: InstalledMesh, name: str, kubeconfig: Any) -> LinkerdMesh:
    access = {"access": {"kubeconfig": str(kubeconfig)}}
    return LinkerdMesh.model_validate(mesh.config.model_dump() | {"name": name} | access)


@on_a_mesh
def test_verify_mesh_reads_everything_with_its_role(
    mesh: InstalledMesh, identity: Identity, prefect_server: PrefectServer
) -> None:
    cluster = identity("verify_mesh", True)
    settled(lambda: dict(read_snapshot(Mesh(cluster, mesh.config)).unread), {})
    assert not cluster.allowed("list", "secrets")
    assert not cluster.allowed("patch", "deployments", group="apps", namespace="linkerd")
    report = verify(read_snapshot(Mesh(cluster, mesh.config)), CATEGORIES, SCOPES)
    assert report.counts == mesh.report().counts
    with cluster.kubeconfig_file() as kubeconfig, on_server(f"{prefect_server.url}/api"):
        assert verify_mesh(block(mesh, "looked-at", kubeconfig), return_state=True).is_completed()


@on_a_mesh
def test_without_a_role_the_flows_fail_by_the_permission(
    mesh: InstalledMesh, identity: Identity, prefect_server: PrefectServer
) -> None:
    with (
        identity("verify_mesh", False).kubeconfig_file() as kubeconfig,
        on_server(f"{prefect_server.url}/api"),
    ):
        unread = block(mesh, "unread", kubeconfig)
        with pytest.raises(MeshUnhealthy, match=r'cannot (get|list) resource "'):
            verify_mesh(unread)
        with pytest.raises(ApiError, match='cannot get resource "configmaps"'):
            check_certificates(unread)


@on_a_mesh
def test_check_certificates_reads_a_handful_of_objects_and_no_other(
    mesh: InstalledMesh, identity: Identity, prefect_server: PrefectServer
) -> None:
    cluster = identity("check_certificates", True)
    wanted = read_expiries(Mesh(mesh.cluster, mesh.config))

    def subjects() -> list[str]:
        try:
            return [expiry.subject for expiry in read_expiries(Mesh(cluster, mesh.config))]
        except ApiError:
            return []

    settled(subjects, [expiry.subject for expiry in wanted])
    with cluster.kubeconfig_file() as kubeconfig, on_server(f"{prefect_server.url}/api"):
        state = check_certificates(block(mesh, "seen", kubeconfig), return_state=True)
    assert (state.is_completed(), state.result()) == (True, ())
    for namespace in (mesh.config.namespaces.linkerd, mesh.config.namespaces.viz, "default"):
        assert not cluster.allowed("list", "secrets", namespace=namespace)
        assert not cluster.allowed("get", "secrets", namespace=namespace, name="another")


READS: dict[str, Callable[[Mesh], object]] = {
    "adopt": lambda mesh: read_adoption(mesh.cluster, mesh.config),
    "check_certificates": read_expiries,
    "verify_mesh": read_snapshot,
}


@on_a_mesh
@pytest.mark.parametrize("flow", READS)
def test_no_role_grants_what_its_flow_does_not_ask_for(
    mesh: InstalledMesh, flow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[str, str, str, str]] = set()
    request = Cluster.request

    def recorded(self: Cluster, method: str, path: str, **options: Any) -> Any:
        assert method == "GET", f"{method} {path}"
        if (found := _parts(path)) is not None:
            asked.add(found)
        return request(self, method, path, **options)

    monkeypatch.setattr(Cluster, "request", recorded)
    READS[flow](Mesh(mesh.cluster, mesh.config))
    for grant in grants_of(flow, mesh.config, {}):
        assert isinstance(grant, Grant)
        for verb in grant.verbs:
            for resource in grant.resources:
                is_asked = any(
                    (verb, grant.group, resource) == (v, g, r)
                    # Namespaces that may not exist have no roles of their own.
                    and (n == grant.namespace or not grant.namespace)
                    for v, g, r, n in asked
                )
                # A kind that this cluster does not serve is never requested.
                is_known = _serves(mesh.cluster, grant.group, resource)
                assert is_asked or not is_known, f"{verb} {resource}: {grant}"


def _parts(path: str) -> tuple[str, str, str, str] | None:
    """Verb, group, resource and namespace of a read."""
    path = re.sub(r"/(pods|services)/([^/]+)/proxy/.*", r"/\1.proxy/\2", path)
    form = r"/(?:api|apis/([^/]+))/v[^/]+(?:/namespaces/([^/]+))?/([a-z.]+)(/[^/]+)?"
    match = re.fullmatch(form, path.split("?")[0])
    if match is None:
        return None
    group, namespace, resource, name = match.groups("")
    return ("get" if name else "list", group, resource.replace(".", "/"), namespace)


def _serves(cluster: Cluster, group: str, resource: str) -> bool:
    if not group:
        return True
    groups = {g["name"]: g for g in cluster.read("/apis")["groups"]}
    return group in groups and any(
        each["name"] == resource
        for version in groups[group]["versions"]
        for each in cluster.read(f"/apis/{version['groupVersion']}")["resources"]
    )
