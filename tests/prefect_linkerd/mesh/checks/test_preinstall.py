"""The checks before an installation, on a real cluster without a mesh."""

from __future__ import annotations

import uuid

import pytest

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.report.report import verify
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
from tests.prefect_linkerd.mesh.checks.faults import created, status
from tests.support.identities import as_account
from tests.support.installed import Failures


@pytest.fixture
def config() -> MeshConfig:
    """A mesh in a namespace that is unused on the shared cluster."""
    return MeshConfig(
        version="stable-2.11.5", namespaces={"linkerd": f"l5d-{uuid.uuid4().hex[:8]}"}
    )


def failing(cluster: Cluster, config: MeshConfig) -> Failures:
    """What fails in the categories that apply only to a cluster without a mesh."""
    snapshot = read_snapshot(Mesh(cluster, config), permissions=True)
    report = verify(snapshot, [c for c in CATEGORIES if c.scope == "pre"], ["pre"])
    assert not [result for result in report.results if result.is_broken]
    return frozenset((result.check.id, result.outcome) for result in report.failing)


@pytest.mark.waits
def test_a_cluster_is_ready_until_something_is_in_the_way(
    cluster: Cluster, config: MeshConfig
) -> None:
    assert failing(cluster, config) == frozenset()
    namespace: Object = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": config.namespaces.linkerd},
    }
    with created(cluster, namespace):
        assert failing(cluster, config) == {("pre-ns", "error")}

    role: Object = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {
            "name": f"linkerd-{config.namespaces.linkerd}-identity",
            "labels": {"linkerd.io/control-plane-ns": config.namespaces.linkerd},
        },
        "rules": [],
    }
    with created(cluster, role):
        assert failing(cluster, config) == {("pre-l5d-existence", "error")}

    def hours_ago(node_status: Object) -> None:
        for condition in node_status["conditions"]:
            condition["lastHeartbeatTime"] = "2026-01-01T00:00:00Z"

    with status(cluster, "v1", "Node", "node-1", None, hours_ago):
        assert failing(cluster, config) == {("pre-k8s-clock-skew", "warning")}


def test_an_identity_that_may_only_read(
    cluster: Cluster, config: MeshConfig, namespace: str
) -> None:
    role: Object = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": f"reader-{namespace}"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}],
    }
    account = {"name": "reader", "namespace": namespace}
    binding: Object = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"reader-{namespace}"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": f"reader-{namespace}",
        },
        "subjects": [{"kind": "ServiceAccount", **account}],
    }
    reader: Object = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}
    with created(cluster, role, reader, binding):
        found = failing(as_account(cluster, namespace, "reader"), config)
    assert found == {("pre-k8s-cluster-k8s", "error"), ("pre-k8s", "error")}
