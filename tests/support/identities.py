"""Clusters as service accounts see them, by their tokens."""

from __future__ import annotations

import json
from typing import Any

from prefect_linkerd.mesh.kubernetes.client import Cluster

RBAC = "rbac.authorization.k8s.io"


def bound_account(cluster: Cluster, namespace: str, name: str, role: str) -> Cluster:
    """The cluster, accessed as a new service account with a ClusterRole."""
    account = {"name": name, "namespace": namespace}
    cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    cluster.create(
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", **account}],
        }
    )
    return as_account(cluster, namespace, name)


def as_account(cluster: Cluster, namespace: str, name: str) -> Cluster:
    """The cluster, accessed as one of its service accounts."""
    answer, _ = cluster.request(
        "POST",
        f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
        body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )
    token = json.loads(answer)["status"]["token"]
    kubeconfig: dict[str, Any] = cluster._as_kubeconfig()
    entry = kubeconfig["clusters"][0]
    return Cluster(
        {
            **kubeconfig,
            "current-context": "x",
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": entry["name"], "user": "u"}}],
        }
    )
