"""Meshes in the documented layout with cert-manager and trust-manager.

Source: https://linkerd.io/2/tasks/automatically-rotating-control-plane-tls-credentials/
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.cert_manager import CERT_MANAGER
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.identity.issuer import await_ready
from prefect_linkerd.mesh.identity.trust_anchor import (
    ISSUER_SECRET,
    TRUST_ROOTS,
    read_tls_secret,
    tls_secret,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor, signed_by
from prefect_linkerd.mesh.rotation.issuer_renewal import await_issued, renew
from prefect_linkerd.mesh.snapshot.webhooks import read_webhook_signers
from sandbox.cluster import Sandbox
from tests.support.certificates import DOMAIN
from tests.support.meshes import configuration
from tests.support.people import applied
from tests.support.waiting import eventually

HOME = "cert-manager"
CURRENT, PREVIOUS = "linkerd-trust-anchor", "linkerd-previous-anchor"


def documented(shared: Path, folder: Path, version: str = "edge-26.8.3", **more: Any) -> MeshConfig:
    """The configuration of a mesh in that layout."""
    managed = {"install": False, "issuer_kind": "ClusterIssuer", "webhook_certificates": False}
    return configuration(
        version,
        shared,
        folder,
        "cert-manager",
        cert_manager=managed,
        values={"inline": {"identity": {"externalCA": True}}},
        **more,
    )


def helm_install(
    sandbox: Sandbox, helm: str, name: str, chart: Path, namespace: str, **values: str
) -> None:
    """Runs `helm install` as a user types it."""
    settings = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [
            *(helm, "--kubeconfig", str(sandbox.kubeconfig), "install", name, str(chart)),
            *("--namespace", namespace, "--create-namespace", "--wait", "--timeout", "120s"),
            *settings,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def install_managers(sandbox: Sandbox, helm: str, shared: Path) -> None:
    """Installs cert-manager and trust-manager from their own charts."""
    charts = shared / "charts" / "jetstack"
    on = {"crds.enabled": "true"}
    helm_install(sandbox, helm, "cert-manager", next(charts.glob("cert-*.tgz")), HOME, **on)
    helm_install(sandbox, helm, "trust-manager", next(charts.glob("trust-*.tgz")), HOME)


def copy_anchor(cluster: Cluster) -> None:
    """Copies the anchor as documented, with the annotation that the docs' former `sed` copied."""
    secret = cluster.get("v1", "Secret", CURRENT, HOME)
    assert secret is not None
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": PREVIOUS,
                "namespace": HOME,
                "annotations": {"cert-manager.io/certificate-name": PREVIOUS},
            },
            "type": secret["type"],
            "data": secret["data"],
        }
    )


def settle_issuer(cluster: Cluster) -> None:
    """Renews the issuer if cert-manager has meanwhile issued the new anchor twice.

    cert-manager does so if its trigger reads a cache that lacks the Secret it has just written.
    """

    def is_signed() -> bool:
        anchor = read_tls_secret(cluster, CURRENT, HOME)
        issuer = read_tls_secret(cluster, ISSUER_SECRET, "linkerd")
        if anchor is None or issuer is None:
            return False
        if signed_by(issuer.certificate, anchor.certificate, ISSUER_SECRET) is not None:
            return True
        renew(cluster, "linkerd", ISSUER_SECRET)
        await_issued(cluster, "linkerd", ISSUER_SECRET, ISSUER_SECRET, 30)
        return False

    eventually(is_signed, every=0.3)


def apply_patiently(cluster: Cluster, obj: dict[str, Any]) -> None:
    """`kubectl apply`, retried while a webhook is not ready."""
    deadline = time.monotonic() + 30
    while True:
        try:
            applied(cluster, obj, "kubectl")
            return
        except ApiError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def apply_file(cluster: Cluster, path: Path) -> list[dict[str, Any]]:
    """`kubectl apply -f`; returns the file's objects."""
    objects = list(yaml.safe_load_all(path.read_text()))
    for obj in objects:
        apply_patiently(cluster, obj)
    return objects


SERVERS = {
    "proxyInjector": "linkerd-proxy-injector",
    "profileValidator": "linkerd-sp-validator",
    "policyValidator": "linkerd-policy-validator",
}
"""The control plane's webhooks: each one's key in the values, and its Certificate and Service."""


MADE_ELSEWHERE = "externalSecret"


def webhook_ca(cluster: Cluster, days_left: float) -> None:
    """Creates the webhooks' CA: `step certificate create`, then `kubectl create secret tls`."""
    year = timedelta(days=365)
    made = create_trust_anchor(DOMAIN, year, datetime.now(UTC) - year + timedelta(days=days_left))
    secret = tls_secret(
        "webhook-issuer-tls", "linkerd", made.certificate, made.private_key, made.certificate
    )
    del secret["metadata"]["labels"], secret["data"]["ca.crt"]
    applied(cluster, secret, "kubectl")


def webhook_certificates(cluster: Cluster, days_left: float) -> dict[str, str]:
    """Has cert-manager issue the webhooks' certificates; returns the control plane's values.

    Source: https://linkerd.io/2.14/tasks/automatically-rotating-webhook-tls-credentials/
    """
    webhook_ca(cluster, days_left)
    issuer = {"name": "webhook-issuer", "namespace": "linkerd"}
    spec: dict[str, Any] = {"ca": {"secretName": "webhook-issuer-tls"}}
    objects = [{"kind": "Issuer", "metadata": issuer, "spec": spec}]
    values: dict[str, str] = {}
    for value, name in SERVERS.items():
        host = f"{name}.linkerd.svc"
        spec = {
            "secretName": f"{name}-k8s-tls",
            "duration": "24h",
            "renewBefore": "1h",
            "issuerRef": {"name": "webhook-issuer", "kind": "Issuer"},
            "commonName": host,
            "dnsNames": [host],
            "isCA": False,
            "privateKey": {"algorithm": "ECDSA", "encoding": "PKCS8"},
            "usages": ["server auth"],
        }
        metadata = {"name": name, "namespace": "linkerd"}
        objects.append({"kind": "Certificate", "metadata": metadata, "spec": spec})
        values |= {f"{value}.{MADE_ELSEWHERE}": "true", f"{value}.injectCaFrom": f"linkerd/{name}"}
    made = [applied(cluster, {"apiVersion": CERT_MANAGER, **obj}, "kubectl") for obj in objects]
    await_ready(cluster, made, 60)
    return values


def trusted(cluster: Cluster) -> set[str]:
    """The CAs that the API server trusts for the control plane's webhooks."""
    signers = read_webhook_signers(Mesh(cluster, MeshConfig()))
    return {signer.bundle.strip() for signer in signers}


def install_documented(
    sandbox: Sandbox,
    helm: str,
    shared: Path,
    config: MeshConfig,
    *,
    webhook_ca_days: float | None = None,
) -> None:
    """Follows the documentation's steps one by one.

    Args:
        webhook_ca_days: the days left of the CA with which cert-manager signs the webhooks'
            certificates too; None: the chart creates them.
    """
    cluster = sandbox.cluster()
    files = shared / "cases" / "cert-manager-trust-manager"
    labels = {"linkerd.io/is-control-plane": "true"}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "linkerd", "labels": labels},
        }
    )
    install_managers(sandbox, helm, shared)
    made = apply_file(cluster, files / "pki.yaml")
    await_ready(cluster, [obj for obj in made if obj["kind"] == "Certificate"], 60)
    settle_issuer(cluster)
    copy_anchor(cluster)
    apply_file(cluster, files / "bundle.yaml")
    eventually(lambda: cluster.get("v1", "ConfigMap", TRUST_ROOTS, "linkerd"), every=0.1)
    webhooks: dict[str, str] = {}
    if webhook_ca_days is not None:
        webhooks = webhook_certificates(cluster, webhook_ca_days)
    catalog = ChartCatalog(config)
    helm_install(sandbox, helm, "linkerd-crds", catalog.find("linkerd-crds").path, "linkerd")
    helm_install(
        sandbox,
        helm,
        "linkerd-control-plane",
        catalog.find("linkerd-control-plane").path,
        "linkerd",
        **{"identity.externalCA": "true", "identity.issuer.scheme": "kubernetes.io/tls"},
        **webhooks,
    )
    # Wait until cainjector has put the CA into every webhook configuration.
    eventually(lambda: "" not in trusted(cluster), every=0.1)


def documented_mesh(
    version: str, shared: Path, helm_path: str, *, webhook_ca_days: float | None = None
) -> Callable[[Sandbox, Path], None]:
    """Returns a function that installs that layout on a sandbox, for `ReadyMeshes.copy`."""

    def install(sandbox: Sandbox, folder: Path) -> None:
        config = documented(shared, folder, version)
        install_documented(sandbox, helm_path, shared, config, webhook_ca_days=webhook_ca_days)

    return install
