"""The proof: what it finds wrong in a mesh that was read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_linkerd.mesh.bootstrap.proof import (
    CONTROL_PLANE,
    ProofSnapshot,
    proof_markdown,
    proof_table,
    prove,
    require_proof,
)
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import NotReady
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.identity.trust_anchor import tls_secret
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor, sign_issuer
from prefect_linkerd.mesh.snapshot.proxy_metrics import ProxyMetrics, ProxySample, Responses

NOW = datetime(2026, 11, 24, tzinfo=UTC)
CONFIG = MeshConfig(traefik={"enabled": True})
ANCHOR = create_trust_anchor("cluster.local", timedelta(days=100), NOW)
OTHER = create_trust_anchor("cluster.local", timedelta(days=100), NOW)
ISSUER = sign_issuer(ANCHOR, "cluster.local", timedelta(days=10), NOW)


def workload(name: str) -> dict[str, Any]:
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    metadata = {"name": name, "namespace": "linkerd", "generation": 1}
    return {"kind": "Deployment", "metadata": metadata, "spec": {}, "status": status}


def pod(
    name: str = "app", *, version: str = CONFIG.version, anchors: str = ANCHOR.certificate
) -> dict[str, Any]:
    proxy = {
        "name": "linkerd-proxy",
        "image": f"cr.l5d.io/linkerd/proxy:{version}",
        "env": [{"name": "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "value": anchors}],
    }
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "linkerd"},
        "spec": {"containers": [{"name": "app", "image": "x"}], "initContainers": [proxy]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def webhook(kind: str, name: str, bundle: str = "x") -> dict[str, Any]:
    hooks = [{"name": "h", "clientConfig": {"caBundle": bundle}}]
    return {"kind": kind, "metadata": {"name": f"{name}-webhook-config"}, "webhooks": hooks}


GOOD = ProofSnapshot(
    config=CONFIG.model_copy(
        update={"traefik": CONFIG.traefik.model_copy(update={"enabled": False})}
    ),
    server_version="v1.34.4",
    workloads=tuple(map(workload, CONTROL_PLANE)),
    trust_roots={"data": {"ca-bundle.crt": ANCHOR.certificate}},
    issuer=tls_secret(
        "linkerd-identity-issuer",
        "linkerd",
        ISSUER.certificate,
        ISSUER.private_key,
        ANCHOR.certificate,
    ),
    webhooks=(
        webhook("MutatingWebhookConfiguration", "linkerd-proxy-injector"),
        webhook("ValidatingWebhookConfiguration", "linkerd-sp-validator"),
    ),
    pods=(pod(),),
    ingress=frozenset(),
    ingress_api="",
    services=frozenset(),
    releases=(Release("linkerd-crds", "linkerd", "linkerd-crds", "1", "", 1, "deployed", NOW),),
    rehearsal=False,
    proxy_version=str(CONFIG.linkerd),
    sample=ProxySample({"linkerd/app": ProxyMetrics(Responses(), NOW + timedelta(days=1))}),
)


def not_ready(snapshot: ProofSnapshot) -> ProofSnapshot:
    sick = pod("sick")
    sick["status"]["conditions"][0] = {"type": "Ready", "status": "False", "reason": "Crash"}
    return replace(snapshot, pods=(sick,))


def unmeshed(snapshot: ProofSnapshot) -> ProofSnapshot:
    bare = pod("bare")
    bare["spec"].pop("initContainers")
    return replace(snapshot, pods=(bare,))


FAULTS: dict[str, tuple[Callable[[ProofSnapshot], ProofSnapshot], str]] = {
    "a Deployment is missing": (
        lambda s: replace(s, workloads=s.workloads[1:]),
        "Deployment/linkerd/linkerd-destination: it does not exist",
    ),
    "no trust bundle": (lambda s: replace(s, trust_roots=None), "linkerd-identity-trust-roots"),
    "no issuer": (lambda s: replace(s, issuer=None), "Secret/linkerd/linkerd-identity-issuer"),
    "an issuer of another anchor": (
        lambda s: replace(
            s,
            trust_roots={"data": {"ca-bundle.crt": OTHER.certificate}},
            pods=(pod(anchors=OTHER.certificate),),
        ),
        "signed by",
    ),
    "a webhook without a CA": (
        lambda s: replace(
            s,
            webhooks=(
                s.webhooks[1],
                webhook("MutatingWebhookConfiguration", "linkerd-proxy-injector", ""),
            ),
        ),
        "has no caBundle",
    ),
    "a webhook is missing": (lambda s: replace(s, webhooks=s.webhooks[:1]), "sp-validator"),
    "a pod is not ready": (not_ready, "Pod/linkerd/sick: Crash"),
    "a pod without a proxy": (unmeshed, "Pod/linkerd/bare: it has no container linkerd-proxy"),
    "a proxy of another version": (
        lambda s: replace(s, pods=(pod(version="edge-25.4.4"),)),
        "not of edge-26.8.3",
    ),
    "a proxy with another anchor": (
        lambda s: replace(s, pods=(pod(anchors=OTHER.certificate),)),
        "its trust bundle is not the mesh's",
    ),
    "a pending release": (
        lambda s: replace(s, releases=(replace(s.releases[0], status="pending-upgrade"),)),
        "its status is pending-upgrade",
    ),
    "a proxy without a certificate": (
        lambda s: replace(s, sample=ProxySample({"linkerd/app": ProxyMetrics(Responses(), None)})),
        "Pod/linkerd/app: its proxy has no certificate; see the log of Deployment/linkerd/",
    ),
    "a proxy whose certificate has expired": (
        lambda s: replace(s, sample=ProxySample({"linkerd/app": ProxyMetrics(Responses(), NOW)})),
        "certificate expired on 2026-11-24",
    ),
    "no route": (
        lambda s: replace(s, config=MeshConfig(profile="demo", viz={"enabled": False})),
        "IngressRoute/",
    ),
}


def test_a_good_mesh_is_proven() -> None:
    proof = require_proof(prove(GOOD, NOW))
    assert proof.proxies == 1
    assert [row.name for row in proof.certificates] == ["trust anchor", "issuer"]
    assert proof.certificates[1].days_left == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize(("break_it", "text"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_found(break_it: Callable[[ProofSnapshot], ProofSnapshot], text: str) -> None:
    proof = prove(break_it(GOOD), NOW)
    assert any(text in failure for failure in proof.failures), proof.failures
    with pytest.raises(NotReady):
        require_proof(proof)


def test_a_proof_says_that_no_proxy_could_be_asked_for_its_certificate() -> None:
    proof = require_proof(prove(replace(GOOD, sample=ProxySample(silent={"a/b": "503"})), NOW))
    assert "proxies have certificates" not in proof.checked
    text = "proxies have certificates: no proxy's admin port answers (503)"
    assert proof.unchecked == (text,)
    assert text in proof_markdown(proof)
    assert "proxies have certificates" in prove(GOOD, NOW).checked


def test_the_page_shows_versions_certificates_and_releases() -> None:
    proof = prove(GOOD, NOW)
    page = proof_markdown(proof)
    for text in ("edge-26.8.3", "v1.34.4", "10.0 days left", "linkerd/linkerd-crds", "works"):
        assert text in page
    assert "PRIVATE KEY" not in page
    assert {row["part"] for row in proof_table(proof)} >= {"Linkerd", "Helm release", "certificate"}
    assert "REHEARSAL" in proof_markdown(prove(replace(GOOD, rehearsal=True), NOW))
