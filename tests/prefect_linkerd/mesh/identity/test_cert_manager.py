"""cert-manager signs the issuer and the webhooks' certificates: real controllers, real charts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, NotReady, OwnershipConflict
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.helm.own_objects import foreign
from prefect_linkerd.mesh.helm.values import ClusterFacts, values_for
from prefect_linkerd.mesh.identity.issuer import (
    cert_manager_objects,
    ensure_cert_manager_issuer,
    ensure_self_signed_issuer,
    own_cert_manager_objects,
    webhook_authorities,
    with_webhooks,
)
from prefect_linkerd.mesh.identity.trust_anchor import (
    ClusterKeyStore,
    TlsSecret,
    cluster_uid,
    ensure_trust_anchor,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, name_of
from prefect_linkerd.mesh.kubernetes.manifests import read_objects
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    KeyPair,
    check_key_matches,
    create_trust_anchor,
    read_certificates,
    signed_by,
)
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support.advice import follows
from tests.support.certificates import DOMAIN, YEAR
from tests.support.people import by_kubectl, content

# One cluster for all tests that let cert-manager sign.
pytestmark = [pytest.mark.waits, pytest.mark.xdist_group("cert-manager")]


def now() -> datetime:
    return datetime.now(UTC)


def config(**changes: Any) -> MeshConfig:
    return MeshConfig.model_validate(
        {
            "profile": "demo",
            "issuer": "cert-manager",
            "trust_anchor": {"custody": "in-cluster"},
            **changes,
        }
    )


# What the Certificates request, against what the charts mount

VERSIONS = {
    "stable-2.11.5": ("linkerd2-2.11.5", "linkerd-viz-2.11.5", "linkerd-jaeger-2.11.5"),
    "stable-2.12.6": (
        "linkerd-control-plane-1.9.8",
        "linkerd-viz-30.3.8",
        "linkerd-jaeger-30.4.8",
    ),
    "stable-2.13.7": (
        "linkerd-control-plane-1.12.7",
        "linkerd-viz-30.8.7",
        "linkerd-jaeger-30.8.7",
    ),
    "stable-2.14.10": (
        "linkerd-control-plane-1.16.11",
        "linkerd-viz-30.12.11",
        "linkerd-jaeger-30.12.11",
    ),
    "edge-25.4.4": (
        "linkerd-control-plane-2025.4.4",
        "linkerd-viz-2025.4.4",
        "linkerd-jaeger-2025.4.4",
    ),
    "edge-26.8.3": ("linkerd-control-plane-2026.8.3", "linkerd-viz-2026.8.3"),
}
NAMESPACES = ("mesh-a", "viz-a", "jaeger-a")


def render(helm: str, chart: Path, namespace: str) -> list[dict[str, Any]]:
    settings = [
        "identityTrustAnchorsPEM=anchors",
        "identity.issuer.scheme=kubernetes.io/tls",
        "linkerdNamespace=mesh-a",
        f"namespace={namespace}",
        "installNamespace=false",
    ]
    command = [helm, "template", "x", str(chart), "-n", namespace, "--kube-version", "1.34.0"]
    for setting in settings:
        command += ["--set", setting]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return read_objects(output)


@pytest.mark.real_charts
@pytest.mark.parametrize("version", VERSIONS)
def test_each_webhook_certificate_is_the_one_that_a_chart_mounts_and_serves(
    version: str, helm_path: str, charts_dir: Path
) -> None:
    mounted: set[tuple[str, str]] = set()
    called: set[tuple[str, str]] = set()
    for chart, namespace in zip(VERSIONS[version], NAMESPACES, strict=False):
        path = charts_dir / version.split("-")[0] / f"{chart}.tgz"
        for document in render(helm_path, path, namespace):
            text = json.dumps(document)
            mounted |= {
                (namespace, name) for name in re.findall(r'"secretName": "([^"]+-k8s-tls)"', text)
            }
            called |= {
                (namespace, f"{service['name']}.{service['namespace']}.svc")
                for service in services_called(document)
            }
    assert mounted

    mesh = config(
        version=version,
        namespaces=dict(zip(("linkerd", "viz", "jaeger"), NAMESPACES, strict=True)),
        jaeger={"enabled": len(VERSIONS[version]) == 3},
    )
    issued = [
        obj
        for obj in cert_manager_objects(mesh)
        if obj["kind"] == "Certificate" and obj["spec"].get("usages") == ["server auth"]
    ]
    assert {(c["metadata"]["namespace"], c["spec"]["secretName"]) for c in issued} == mounted
    assert {
        (c["metadata"]["namespace"], name) for c in issued for name in c["spec"]["dnsNames"]
    } == called


def services_called(document: dict[str, Any]) -> list[dict[str, str]]:
    """The Services that a rendered object has the API server call over TLS."""
    if document["kind"] == "APIService":
        return [document["spec"]["service"]]
    if document["kind"].endswith("WebhookConfiguration"):
        return [hook["clientConfig"]["service"] for hook in document["webhooks"]]
    return []


@pytest.mark.parametrize(("kind", "namespace"), [("Issuer", "linkerd"), ("ClusterIssuer", None)])
def test_the_issuers_certificate_is_what_linkerds_documentation_asks_for(
    kind: str, namespace: str | None
) -> None:
    mesh = config(
        cert_manager={"issuer_kind": kind, "webhook_certificates": False},
        trust_domain="mesh.example.org",
        lifetimes={"issuer_hours": 72, "issuer_renew_before_hours": 30},
    )
    issuer, certificate = cert_manager_objects(mesh)
    assert (issuer["kind"], issuer["metadata"].get("namespace")) == (kind, namespace)
    assert issuer["spec"] == {"ca": {"secretName": "linkerd-trust-anchor"}}
    spec = certificate["spec"]
    assert spec["issuerRef"]["kind"] == kind
    assert (spec["duration"], spec["renewBefore"]) == ("72h0m0s", "30h0m0s")
    assert spec["commonName"] == "identity.linkerd.mesh.example.org"
    assert spec["isCA"] is True
    assert spec["privateKey"] == {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"}
    assert {"cert sign", "crl sign"} <= set(spec["usages"])


# What cert-manager issues


@pytest.fixture(scope="module")
def certified(binaries: Binaries, charts_dir: Path) -> Iterator[Cluster]:
    """A cluster on which cert-manager is installed by its chart."""
    with Sandbox("cert-manager") as sandbox:
        cluster = sandbox.cluster()
        subprocess.run(
            [
                str(binaries.helm),
                "install",
                "cert-manager",
                str(next((charts_dir / "jetstack").glob("cert-manager-*.tgz"))),
                *("--namespace", "cert-manager", "--create-namespace", "--wait"),
                *("--set", "crds.enabled=true", "--set", "startupapicheck.enabled=false"),
            ],
            env=os.environ | {"KUBECONFIG": str(sandbox.kubeconfig)},
            capture_output=True,
            check=True,
        )
        yield cluster


def make_namespaces(cluster: Cluster, mesh: MeshConfig) -> None:
    for name in (mesh.namespaces.linkerd, mesh.namespaces.viz):
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


def tls(cluster: Cluster, name: str, namespace: str) -> TlsSecret:
    secret = cluster.get("v1", "Secret", name, namespace)
    assert secret is not None
    return TlsSecret.of(secret)


@pytest.mark.parametrize(
    ("kind", "where"), [("Issuer", "mesh-issuer"), ("ClusterIssuer", "cert-manager")]
)
def test_cert_manager_signs_the_issuer_and_the_webhooks(
    kind: str, where: str, certified: Cluster
) -> None:
    cluster = certified
    name = f"mesh-{kind.lower()}"
    mesh = config(
        namespaces={"linkerd": name, "viz": f"{name}-viz"}, cert_manager={"issuer_kind": kind}
    )
    make_namespaces(cluster, mesh)
    store = ClusterKeyStore(cluster, where)
    anchor = ensure_trust_anchor(Mesh(cluster, mesh), store, now())

    made = ensure_cert_manager_issuer(Mesh(cluster, mesh), anchor, store, now(), timeout=60)

    assert made.origin == "made"
    assert made.info.not_after - made.info.not_before == timedelta(hours=48)
    issuer = tls(cluster, "linkerd-identity-issuer", name)
    signer = signed_by(issuer.certificate, anchor.bundle, "issuer")
    assert signer is not None
    assert signer.fingerprint == anchor.info.fingerprint
    authorities = webhook_authorities(Mesh(cluster, mesh))
    assert set(authorities) == {name, f"{name}-viz"}
    for namespace, server in ((name, "linkerd-proxy-injector"), (f"{name}-viz", "tap")):
        held = tls(cluster, f"{server}-k8s-tls", namespace)
        assert held.private_key is not None
        check_key_matches(held.certificate, held.private_key, server)
        assert signed_by(held.certificate, authorities[namespace], server) is not None
        served = read_certificates(held.certificate, server)[0]
        assert served.dns_names == (f"{server}.{namespace}.svc",)

    again = ensure_cert_manager_issuer(Mesh(cluster, mesh), anchor, store, now(), timeout=60)
    assert (again.origin, again.info) == ("adopted", made.info)


class Kept:
    """A store whose pair is not in the cluster."""

    where = "memory"

    def __init__(self, pair: KeyPair | None) -> None:
        self._pair = pair

    def load(self) -> KeyPair | None:
        return self._pair

    def store_once(self, pair: KeyPair) -> None:
        assert pair == self._pair


def own_anchor(cluster: Cluster) -> KeyPair:
    return replace(create_trust_anchor(DOMAIN, YEAR, now()), cluster=cluster_uid(cluster))


@follows("Fix what the message names, then run again.")
def test_a_failure_says_what_cert_manager_says(certified: Cluster) -> None:
    mesh = config(namespaces={"linkerd": "mesh-failing", "viz": "mesh-failing-viz"})
    make_namespaces(certified, mesh)
    store = Kept(own_anchor(certified))
    anchor = ensure_trust_anchor(Mesh(certified, mesh), store, now())
    with pytest.raises(NotReady) as caught:
        ensure_cert_manager_issuer(Mesh(certified, mesh), anchor, store, now(), timeout=4)
    error = caught.value
    assert error.subject == "Issuer/mesh-failing/linkerd-trust-anchor"
    assert error.expected == "Ready within 4 s"
    assert 'secrets "linkerd-trust-anchor" not found' in error.found
    # The condition and an event both say so.
    assert error.found.count('"linkerd-trust-anchor" not found') >= 2
    pair = store.load()
    assert pair is not None
    ClusterKeyStore(certified, "mesh-failing").store_once(pair)
    assert ensure_cert_manager_issuer(Mesh(certified, mesh), anchor, store, now(), timeout=60)


@follows("Provide it (trust_anchor.certificate_file and private_key_file), or set issuer")
def test_without_the_anchors_key_in_the_cluster_nothing_is_asked_of_cert_manager(
    certified: Cluster,
) -> None:
    mesh = config(namespaces={"linkerd": "mesh-keyless", "viz": "mesh-keyless-viz"})
    make_namespaces(certified, mesh)
    store = Kept(own_anchor(certified))
    anchor = ensure_trust_anchor(Mesh(certified, mesh), store, now())
    for other in (Kept(None), Kept(create_trust_anchor(DOMAIN, YEAR, now()))):
        with pytest.raises(InvalidInput, match="set issuer to self-signed"):
            ensure_cert_manager_issuer(Mesh(certified, mesh), anchor, other, now(), timeout=4)
    assert list(certified.list("cert-manager.io/v1", "Certificate", "mesh-keyless")) == []
    assert ensure_self_signed_issuer(Mesh(certified, mesh), anchor, store, now()).origin == "made"


def test_a_certificate_of_somebody_else_is_used_and_never_written(certified: Cluster) -> None:
    cluster, name = certified, "mesh-theirs"
    mesh = config(
        namespaces={"linkerd": name, "viz": f"{name}-viz"},
        cert_manager={"webhook_certificates": False},
    )
    make_namespaces(cluster, mesh)
    store = ClusterKeyStore(cluster, name)
    anchor = ensure_trust_anchor(Mesh(cluster, mesh), store, now())
    issuer, certificate = cert_manager_objects(mesh)
    spec = {**certificate["spec"], "duration": "72h0m0s", "secretName": "another"}
    spec["issuerRef"] = {"name": "mine", "kind": "Issuer"}
    place = {"name": "linkerd-identity-issuer", "namespace": name}
    theirs = [
        by_kubectl(cluster, {**issuer, "metadata": {"name": "mine", "namespace": name}}),
        by_kubectl(cluster, {**certificate, "metadata": place, "spec": spec}),
    ]
    with pytest.raises(OwnershipConflict, match=f"spec.secretName: {place['name']}"):
        ensure_cert_manager_issuer(Mesh(cluster, mesh), anchor, store, now(), timeout=60)

    # As advised: its owner has it write the Secret that Linkerd reads.
    cluster.delete("cert-manager.io/v1", "Certificate", place["name"], name)
    spec["secretName"] = place["name"]
    theirs[1] = by_kubectl(cluster, {**certificate, "metadata": place, "spec": spec})
    before = content(cluster, theirs)
    made = ensure_cert_manager_issuer(Mesh(cluster, mesh), anchor, store, now(), timeout=60)
    assert made.info.not_after - made.info.not_before == timedelta(hours=72)
    assert [labels for _, labels, _, _ in before] == [None, None]
    after = content(cluster, theirs)
    assert [said for _, _, said, _ in after] == [said for _, _, said, _ in before]
    assert not any("prefect-linkerd" in managers for _, _, _, managers in after)
    # No object of ours is needed beside it.
    found = cluster.list("cert-manager.io/v1", "Issuer", name)
    assert [obj["metadata"]["name"] for obj in found] == ["mine"]


@pytest.mark.real_charts
def test_a_certificate_of_another_name_for_the_same_secret_is_used(
    certified: Cluster, charts_dir: Path
) -> None:
    """Any name, as in Linkerd's documentation: cert-manager lets one of two write the Secret."""
    cluster, name = certified, "mesh-named"
    viz = f"{name}-viz"
    mesh = config(
        namespaces={"linkerd": name, "viz": viz},
        version="edge-26.8.3",
        charts={"mirror": str(charts_dir)},
    )
    make_namespaces(cluster, mesh)
    store = ClusterKeyStore(cluster, name)
    anchor = ensure_trust_anchor(Mesh(cluster, mesh), store, now())
    ours = {name_of(obj): obj for obj in cert_manager_objects(mesh)}
    issuer = ours[f"Issuer/{viz}/webhook-selfsigned"]
    place = {"name": "webhook-issuer", "namespace": viz}
    theirs = [by_kubectl(cluster, {**issuer, "metadata": place})]
    for was, is_now in (("tap", "tap-cert"), ("linkerd-tap-injector", "tap-injector")):
        certificate = ours[f"Certificate/{viz}/{was}"]
        theirs.append(
            by_kubectl(cluster, {**certificate, "metadata": {"name": is_now, "namespace": viz}})
        )
    before = content(cluster, theirs)
    ensure_cert_manager_issuer(Mesh(cluster, mesh), anchor, store, now(), timeout=60)

    assert [said for _, _, said, _ in content(cluster, theirs)] == [
        said for _, _, said, _ in before
    ]
    found = cluster.list("cert-manager.io/v1", "Certificate", viz)
    # No object of ours is in that namespace, not even an unneeded CA.
    assert {obj["metadata"]["name"] for obj in found} == {"tap-cert", "tap-injector"}
    facts = with_webhooks(
        ClusterFacts(cluster.version(), cluster.api_versions()), Mesh(cluster, mesh)
    )
    assert facts.webhook_keepers == {
        f"{viz}/tap": "tap-cert",
        f"{viz}/linkerd-tap-injector": "tap-injector",
    }
    values = values_for(ChartCatalog(mesh).find("linkerd-viz"), mesh, facts)
    assert values["tapInjector"]["injectCaFrom"] == f"{viz}/tap-injector"
    own = {name_of(each.wanted): each for each in own_cert_manager_objects(mesh)}
    lacking = foreign(own[f"Certificate/{viz}/tap"], {**theirs[1], "spec": {"secretName": "x"}})
    assert lacking is not None
    assert lacking.subject == f"Certificate/{viz}/tap-cert"
