"""Following the advice of errors about the API server and its objects: the request passes."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from prefect_linkerd.mesh.adoption import find_control_plane
from prefect_linkerd.mesh.errors import ApiError, InvalidInput, OwnershipConflict, ReleaseError
from prefect_linkerd.mesh.helm.installed import MARKS
from prefect_linkerd.mesh.helm.records import read_releases
from prefect_linkerd.mesh.identity.trust_anchor import (
    ClusterKeyStore,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from sandbox.cluster import Sandbox
from tests.support.advice import advice, follows
from tests.support.certificates import make
from tests.support.crds import crd
from tests.support.waiting import eventually

PASSPHRASE = SecretStr("correct horse battery staple")


def config_map(namespace: str, name: str = "a", **more: Any) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **more}


@follows(
    "Create it, or its namespace or CRD, whichever the message names.",
    "Another client changed or created it in the meantime: run again.",
    "The API does not accept the object as written: fix the field that it names.",
)
def test_advice_about_an_object(cluster: Cluster, namespace: str) -> None:
    nowhere = f"{namespace}-b"
    advice(ApiError, lambda: cluster.create(config_map(nowhere)))
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": nowhere}})
    stale = cluster.create(config_map(nowhere))
    cluster.merge("v1", "ConfigMap", "a", nowhere, {"data": {"k": "1"}})
    advice(ApiError, lambda: cluster.replace(stale))
    again = cluster.get("v1", "ConfigMap", "a", nowhere)
    assert again is not None
    cluster.replace(again)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": nowhere},
        "spec": {"ports": [{"port": 0}]},
    }
    advice(ApiError, lambda: cluster.create(service))
    cluster.create({**service, "spec": {"ports": [{"port": 80}]}})
    cluster.delete("v1", "Namespace", nowhere)


@follows("Install its CRD, or use a Kubernetes version that serves it.")
def test_advice_about_a_kind(cluster: Cluster, namespace: str) -> None:
    made = crd("advice.example.com", "Remedy")
    version = f"advice.example.com/{made['spec']['versions'][0]['name']}"
    own: Object = {"apiVersion": version, "kind": "Remedy", "metadata": {"name": "a"}}
    if made["spec"]["scope"] == "Namespaced":
        own["metadata"]["namespace"] = namespace
    advice(ApiError, lambda: cluster.create(own))
    cluster.apply(made)
    try:
        eventually(lambda: cluster.serves(version, "Remedy"), every=0.1)
        cluster.create(own)
    finally:
        name = made["metadata"]["name"]
        cluster.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)


@follows(
    "Log in to the cluster again: its credentials are not accepted.",
    "Grant this identity the role of docs/permissions.md.",
)
def test_advice_about_an_identity(
    sandbox: Sandbox, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    account = {"name": "a", "namespace": namespace}
    cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    answer, _ = cluster.request(
        "POST",
        f"/api/v1/namespaces/{namespace}/serviceaccounts/a/token",
        body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )
    file = tmp_path / "kubeconfig"

    def look(token: str) -> None:
        content = yaml.safe_load(sandbox.kubeconfig.read_text())
        content["users"][0]["user"] = {"token": token}
        file.write_text(yaml.safe_dump(content))
        list(Cluster.from_file(file).list("v1", "ConfigMap", namespace))

    good = json.loads(answer)["status"]["token"]
    assert advice(ApiError, lambda: look("old")).startswith("Log in")
    assert advice(ApiError, lambda: look(good)).startswith("Grant")
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "a", "namespace": namespace},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "view",
            },
            "subjects": [{"kind": "ServiceAccount", **account}],
        }
    )

    def is_granted() -> bool:
        try:
            look(good)
        except ApiError:
            return False
        return True

    eventually(is_granted, 20, every=0.1)


@follows(
    "Check that the API server is running and reachable from here.",
    "Run again once the API server is healthy.",
)
def test_advice_about_an_api_server_that_does_not_answer() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    entries = {
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "a", "user": {"token": "t"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    }
    cluster = Cluster(entries, patience=0)
    advice(ApiError, cluster.version)
    status = 500

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"gitVersion": "v1.34.4"}')

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        advice(ApiError, cluster.version)
        status = 200
        assert cluster.version() == "v1.34.4"
        server.shutdown()


@follows("Delete this Secret if `helm history` cannot read the release either.")
def test_advice_about_a_record_of_helm(cluster: Cluster, namespace: str) -> None:
    name = "sh.helm.release.v1.broken.v1"
    labels = {"owner": "helm", "name": "broken", "status": "deployed", "version": "1"}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    record = {"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1"}
    cluster.create({**record, "metadata": metadata, "data": {"release": "anVuaw=="}})
    advice(ReleaseError, lambda: read_releases(cluster, [namespace]))
    cluster.delete("v1", "Secret", name, namespace)
    assert read_releases(cluster, [namespace]) == ()


@follows("Move this Secret away, or put the trust anchor and its key in it.")
def test_advice_about_a_secret_in_the_anchors_place(cluster: Cluster, namespace: str) -> None:
    store = ClusterKeyStore(cluster, namespace)
    metadata = {"name": "linkerd-trust-anchor", "namespace": namespace}
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
    cluster.create({**theirs, "data": {"other": "eA=="}})
    advice(OwnershipConflict, store.load)
    cluster.delete("v1", "Secret", metadata["name"], namespace)
    assert store.load() is None
    store.store_once(pair := make().pair)
    kept = store.load()
    assert kept is not None
    assert kept.certificate == pair.certificate


@follows(
    "Choose another kubeconfig or context, or install a mesh with bootstrap.",
    "Choose another kubeconfig or context.",
)
def test_advice_where_there_is_no_control_plane_to_adopt(cluster: Cluster, namespace: str) -> None:
    api_version, kind, name = MARKS["linkerd-control-plane"]
    assert list(cluster.list(api_version, kind, fields=f"metadata.name={name}")) == []
    advice(InvalidInput, lambda: find_control_plane(cluster))
    places = [namespace, f"{namespace}-b"]
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": places[1]}})
    try:
        for place in places:
            cluster.create(made(api_version, kind, name, place))
        assert "bootstrap" not in advice(InvalidInput, lambda: find_control_plane(cluster))
        # As on another cluster.
        cluster.delete(api_version, kind, name, places[1])
        eventually(lambda: cluster.get(api_version, kind, name, places[1]) is None, every=0.1)
        assert find_control_plane(cluster)[0] == namespace
    finally:
        cluster.delete("v1", "Namespace", places[1])


def made(api_version: str, kind: str, name: str, namespace: str) -> Object:
    labels = {"app": name}
    pod = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "example.com/app:1"}]},
    }
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
