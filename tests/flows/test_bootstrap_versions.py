"""`bootstrap` of every supported version, with real charts on a real API server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.pki.certificates import read_certificates
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from sandbox.cluster import Sandbox
from tests.support.certificates import NOW, YEAR, make
from tests.support.cluster_state import resource_versions
from tests.support.flows import ConfigFactory, FlowRunner

REGISTRY = "registry.example.com:5000/mirror"


def provided_anchor(folder: Path) -> dict[str, Any]:
    """An RSA root, as companies have them."""
    key, since = rsa.generate_private_key(65537, 4096), datetime.now(UTC) - NOW
    pair = make("Example Corp Root", key=key, starts=since - YEAR, ends=since + YEAR).pair
    (folder / "anchor.crt").write_text(pair.certificate)
    (folder / "anchor.key").write_text(pair.private_key.get_secret_value())
    return {
        "certificate_file": str(folder / "anchor.crt"),
        "private_key_file": str(folder / "anchor.key"),
    }


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "stable-2.11.5": lambda folder: {
        "trust_anchor": {
            "key_file": str(folder / "anchor.key"),
            "passphrase": "correct horse battery staple",
        },
        "jaeger": {"enabled": True},
    },
    "stable-2.12.6": lambda _: {
        "registry": {"host": REGISTRY, "username": "puller", "password": "s3cret-of-the-registry"},
        "jaeger": {"enabled": True},
    },
    "stable-2.13.7": lambda _: {
        "trust_domain": "mesh.example.org",
        "cluster_domain": "k8s.example.org",
    },
    "stable-2.14.10": lambda _: {
        "issuer": "cert-manager",
        "trust_anchor": {"custody": "in-cluster"},
        "jaeger": {"enabled": True},
    },
    "edge-25.4.4": lambda folder: {"ha": True, "trust_anchor": provided_anchor(folder)},
    "edge-26.8.3": lambda _: {
        "issuer": "cert-manager",
        "cert_manager": {"issuer_kind": "ClusterIssuer"},
        "trust_anchor": {"custody": "in-cluster"},
        "viz": {"dashboard": {"host": "viz.example.com"}},
    },
}


@pytest.mark.parametrize("version", CASES)
def test_bootstrap_makes_a_mesh_and_a_second_run_changes_nothing(
    version: str,
    fresh_sandbox: Callable[..., Sandbox],
    mesh_config: ConfigFactory,
    run_bootstrap: FlowRunner,
    tmp_path: Path,
) -> None:
    sandbox = fresh_sandbox()
    cluster = sandbox.cluster()
    config = mesh_config(
        sandbox, name=version.replace(".", "-"), version=version, **CASES[version](tmp_path)
    )

    first = run_bootstrap(config, on_server=True)

    assert first.returncode == 0, first.stderr[-4000:]
    answer = json.loads(first.stdout.splitlines()[-1])
    assert answer["ok"]
    LOOK_AT[version](cluster, LinkerdMesh.model_validate(config))

    before = resource_versions(cluster)
    second = run_bootstrap(config, on_server=True)
    after = resource_versions(cluster)

    assert second.returncode == 0, second.stderr[-4000:]
    assert {key: after.get(key) for key in before} == before
    assert set(after) == set(before)


def control_plane_values(cluster: Cluster) -> str:
    config = cluster.get("v1", "ConfigMap", "linkerd-config", "linkerd")
    assert config is not None
    return config["data"]["values"]


def secret(cluster: Cluster, name: str, namespace: str) -> dict[str, str]:
    found = cluster.get("v1", "Secret", name, namespace)
    assert found is not None, f"Secret/{namespace}/{name}"
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


def private_keys_in_the_cluster_for(cluster: Cluster, certificate: str) -> list[str]:
    """Secrets that hold both this certificate and a key of its own."""
    return [
        obj["metadata"]["name"]
        for obj in cluster.list("v1", "Secret", fields="type=kubernetes.io/tls")
        if base64.b64decode(obj["data"]["tls.crt"]).decode().strip() == certificate.strip()
    ]


def offline_anchor(cluster: Cluster, mesh: LinkerdMesh) -> None:
    key_file = mesh.trust_anchor.key_file
    assert key_file is not None
    assert "ENCRYPTED PRIVATE KEY" in key_file.read_text()
    assert key_file.stat().st_mode & 0o077 == 0
    anchor = secret(cluster, "linkerd-identity-issuer", "linkerd")["ca.crt"]
    assert private_keys_in_the_cluster_for(cluster, anchor) == []
    assert read_certificates(anchor, "anchor")[0].path_length is None


def private_registry(cluster: Cluster, _mesh: LinkerdMesh) -> None:
    pods = [
        pod
        for namespace in ("linkerd", "linkerd-viz", "linkerd-jaeger", "traefik", "emojivoto")
        for pod in cluster.list("v1", "Pod", namespace)
    ]
    assert len(pods) >= 12
    for pod in pods:
        spec = pod["spec"]
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["image"].startswith(REGISTRY + "/"), pod["metadata"]["name"]
        pull = [reference["name"] for reference in spec.get("imagePullSecrets", [])]
        assert "prefect-linkerd-registry" in pull, pod["metadata"]["name"]
    docker = json.loads(
        secret(cluster, "prefect-linkerd-registry", "emojivoto")[".dockerconfigjson"]
    )
    assert docker["auths"][REGISTRY.split("/")[0]]["username"] == "puller"


def custom_domains(cluster: Cluster, _mesh: LinkerdMesh) -> None:
    issuer = secret(cluster, "linkerd-identity-issuer", "linkerd")
    assert (
        "identity.linkerd.mesh.example.org" in read_certificates(issuer["tls.crt"], "i")[0].subject
    )
    assert "root.linkerd.mesh.example.org" in read_certificates(issuer["ca.crt"], "a")[0].subject
    values = control_plane_values(cluster)
    assert "identityTrustDomain: mesh.example.org" in values
    assert "clusterDomain: k8s.example.org" in values
    proxies = [
        {e["name"]: e.get("value") for e in container["env"]}
        for pod in cluster.list("v1", "Pod", "emojivoto")
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
        if container["name"] == "linkerd-proxy"
    ]
    assert len(proxies) == 4
    for env in proxies:
        assert "mesh.example.org" in str(env["LINKERD2_PROXY_IDENTITY_SVC_NAME"])
        assert "k8s.example.org" in str(env["LINKERD2_PROXY_DESTINATION_SVC_ADDR"])


def cert_manager_issuer(kind: str, namespace: str) -> Callable[..., None]:
    def look(cluster: Cluster, _mesh: LinkerdMesh) -> None:
        certificate = cluster.get(
            "cert-manager.io/v1", "Certificate", "linkerd-identity-issuer", "linkerd"
        )
        assert certificate is not None
        spec = certificate["spec"]
        assert spec["issuerRef"]["kind"] == kind
        assert (spec["duration"], spec["renewBefore"]) == ("48h0m0s", "25h0m0s")
        anchor = secret(cluster, "linkerd-trust-anchor", namespace)["tls.crt"]
        issuer = secret(cluster, "linkerd-identity-issuer", "linkerd")
        info = read_certificates(issuer["tls.crt"], "issuer")[0]
        assert info.issuer == read_certificates(anchor, "anchor")[0].subject
        assert info.not_after - info.not_before == timedelta(hours=48)
        webhook = cluster.get(
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            "linkerd-proxy-injector-webhook-config",
        )
        assert webhook is not None
        assert webhook["webhooks"][0]["clientConfig"]["caBundle"]

    return look


def highly_available(cluster: Cluster, _mesh: LinkerdMesh) -> None:
    for name in ("linkerd-destination", "linkerd-identity", "linkerd-proxy-injector"):
        deployment = cluster.get("apps/v1", "Deployment", name, "linkerd")
        assert deployment is not None
        assert deployment["status"]["readyReplicas"] == 3
    webhook = cluster.get(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        "linkerd-proxy-injector-webhook-config",
    )
    assert webhook is not None
    assert webhook["webhooks"][0]["failurePolicy"] == "Fail"
    budgets = list(cluster.list("policy/v1", "PodDisruptionBudget", "linkerd"))
    assert len(budgets) >= 3


def dashboard(cluster: Cluster, mesh: LinkerdMesh) -> None:
    cert_manager_issuer("ClusterIssuer", "cert-manager")(cluster, mesh)
    routes = list(cluster.list("traefik.io/v1alpha1", "IngressRoute", "linkerd-viz"))
    assert [r["spec"]["routes"][0]["match"] for r in routes] == ["Host(`viz.example.com`)"]
    assert ":" in secret(cluster, "web-ingress-auth", "linkerd-viz")["users"]


LOOK_AT: dict[str, Callable[[Cluster, LinkerdMesh], None]] = {
    "stable-2.11.5": offline_anchor,
    "stable-2.12.6": private_registry,
    "stable-2.13.7": custom_domains,
    "stable-2.14.10": cert_manager_issuer("Issuer", "linkerd"),
    "edge-25.4.4": highly_available,
    "edge-26.8.3": dashboard,
}
