"""Meshes in the layout of Linkerd's documentation, by cert-manager and trust-manager.

Source: https://linkerd.io/2/tasks/automatically-rotating-control-plane-tls-credentials/
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.identity.issuer import await_ready
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TRUST_ROOTS, read_tls_secret
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.pki.certificates import signed_by
from prefect_linkerd.mesh.rotation.issuer_renewal import await_issued, renew
from sandbox.cluster import Sandbox
from tests.support.meshes import configuration
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
    """`helm install`, as somebody types it."""
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
    """cert-manager and trust-manager, by their own charts."""
    charts = shared / "charts" / "jetstack"
    on = {"crds.enabled": "true"}
    helm_install(sandbox, helm, "cert-manager", next(charts.glob("cert-*.tgz")), HOME, **on)
    helm_install(sandbox, helm, "trust-manager", next(charts.glob("trust-*.tgz")), HOME)


def copy_anchor(cluster: Cluster) -> None:
    """What the documentation does; by sed, as it did once, the annotation came along."""
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
    """Has the issuer renewed where cert-manager has issued the new anchor twice meanwhile.

    Its trigger may look at a cache that lacks the Secret which it has just written.
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
    """`kubectl apply`, again while a webhook is not ready."""
    deadline = time.monotonic() + 30
    while True:
        try:
            cluster.apply(obj)
            return
        except ApiError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def apply_file(cluster: Cluster, path: Path) -> list[dict[str, Any]]:
    """`kubectl apply -f`; the objects of the file."""
    objects = list(yaml.safe_load_all(path.read_text()))
    for obj in objects:
        apply_patiently(cluster, obj)
    return objects


def install_documented(sandbox: Sandbox, helm: str, shared: Path, config: MeshConfig) -> None:
    """The documentation's steps, one by one."""
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
    catalog = ChartCatalog(config)
    helm_install(sandbox, helm, "linkerd-crds", catalog.find("linkerd-crds").path, "linkerd")
    helm_install(
        sandbox,
        helm,
        "linkerd-control-plane",
        catalog.find("linkerd-control-plane").path,
        "linkerd",
        **{"identity.externalCA": "true", "identity.issuer.scheme": "kubernetes.io/tls"},
    )
