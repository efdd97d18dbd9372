"""Following the advice of a rotation's refusals about objects, in the cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, MeshBusy, NotReady
from prefect_linkerd.mesh.identity.trust_anchor import FileKeyStore, tls_secret
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import fingerprints, sign_issuer
from prefect_linkerd.mesh.records.rotation import RECORD, RotationClaim, RotationRecord
from prefect_linkerd.mesh.rotation.issuer import inspect_issuer
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.options import RotationOptions
from prefect_linkerd.mesh.rotation.preconditions import refuse
from prefect_linkerd.mesh.rotation.trust_bundle import _write_bundle
from tests.support.advice import advice, follows
from tests.support.certificates import DOMAIN, NOW, Made, make
from tests.support.waiting import eventually

PASSPHRASE = SecretStr("correct horse battery staple")
ROOTS = "linkerd-identity-trust-roots"


@pytest.fixture
def config(namespace: str) -> MeshConfig:
    return MeshConfig.model_validate({"namespaces": {"linkerd": namespace}})


def root(cluster: Cluster, **options: Any) -> Made:
    """An anchor dated by the cluster's clock."""
    shift = cluster.clock() - NOW
    ends = options.pop("ends", timedelta(days=300))
    return make(starts=shift - timedelta(days=9), ends=shift + ends, **options)


def trusts(cluster: Cluster, namespace: str, *anchors: Made) -> None:
    data = {"ca-bundle.crt": "".join(made.pem for made in anchors)}
    metadata = {"name": ROOTS, "namespace": namespace}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


@follows(
    "Let rotate_anchor finish, which makes a new issuer as well.",
    "Put the anchor that signed it back into the trust bundle, or run rotate_anchor with recover "
    "and accept_downtime.",
    "Run rotate_anchor with recover and accept_downtime.",
)
def test_advice_before_the_issuer_is_rotated(
    cluster: Cluster, namespace: str, config: MeshConfig, tmp_path: Path
) -> None:
    anchor, other = root(cluster), root(cluster)
    store = FileKeyStore(tmp_path / "anchor.pem", PASSPHRASE)
    store.store_once(anchor.pair)

    def look() -> None:
        inspect_issuer(Mesh(cluster, config), KeyRing(store), RotationOptions())

    def sign(signer: Made) -> None:
        pair = sign_issuer(signer.pair, DOMAIN, timedelta(days=30), cluster.clock())
        name = "linkerd-identity-issuer"
        secret = tls_secret(name, namespace, pair.certificate, pair.private_key, signer.pem)
        cluster.apply(secret)

    sign(anchor)
    trusts(cluster, namespace, anchor)
    record = RotationRecord("new", "old", anchor.pem, "spread", "2026-05-04")
    metadata = {"name": RECORD, "namespace": namespace}
    open_one = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    for phase in ("spread", "done"):
        data = {"rotation": json.dumps(asdict(replace(record, phase=phase)))}
        cluster.apply({**open_one, "data": data})
        if phase == "spread":
            assert advice(InvalidInput, look).startswith("Let rotate_anchor finish")
    look()

    trusts(cluster, namespace, other)
    assert "or run rotate_anchor with recover" in advice(InvalidInput, look)
    trusts(cluster, namespace, other, anchor)
    look()

    ended = root(cluster, ends=timedelta(hours=-1))
    issuer = make(
        "identity.linkerd.cluster.local",
        signer=ended,
        path_length=0,
        starts=cluster.clock() - NOW - timedelta(days=2),
        ends=cluster.clock() - NOW - timedelta(hours=2),
    )
    key = issuer.pair.private_key
    name = "linkerd-identity-issuer"
    cluster.apply(tls_secret(name, namespace, issuer.pem, key, ended.pem))
    trusts(cluster, namespace, ended)
    assert advice(InvalidInput, look).startswith("Run rotate_anchor with recover")
    accepted = RotationOptions(accept_downtime=True)
    refuse(config, accepted, "recover", found=(), expired=True, unsigned=False, is_open=False)
    assert fingerprints(ended.pem, "ended")


@follows("Let it finish, or cancel it, then run this again.")
def test_advice_about_another_run(cluster: Cluster, namespace: str) -> None:
    def claim(owner: str) -> None:
        with RotationClaim(cluster, namespace, owner, 6):
            pass

    with RotationClaim(cluster, namespace, "first", 6):
        advice(MeshBusy, lambda: claim("second"))
    claim("second")


@pytest.fixture
def bundles(cluster: Cluster) -> Iterator[None]:
    """A cluster that serves trust-manager's Bundles."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True}
    name = "bundles.trust.cert-manager.io"
    spec = {
        "group": "trust.cert-manager.io",
        "scope": "Cluster",
        "names": {"kind": "Bundle", "plural": "bundles"},
        "versions": [{**version, "schema": {"openAPIV3Schema": schema}}],
    }
    crd = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
    cluster.apply({"apiVersion": crd[0], "kind": crd[1], "metadata": {"name": name}, "spec": spec})
    eventually(lambda: cluster.serves("trust.cert-manager.io/v1alpha1", "Bundle"), every=0.1)
    yield
    cluster.delete(*crd, name)


@follows("Name the Bundle like the ConfigMap, or stop it from owning the ConfigMap.")
@pytest.mark.usefixtures("bundles")
def test_advice_about_a_bundle_of_another_name(cluster: Cluster) -> None:
    anchor = root(cluster)
    advice(NotReady, lambda: _write_bundle(cluster, anchor.pem))
    spec = {"sources": [{"secret": {"name": "a", "key": "b"}}]}
    bundle: Object = {"apiVersion": "trust.cert-manager.io/v1alpha1", "kind": "Bundle"}
    cluster.create({**bundle, "metadata": {"name": ROOTS}, "spec": spec})
    _write_bundle(cluster, anchor.pem)
    found = cluster.get(bundle["apiVersion"], "Bundle", ROOTS)
    assert found is not None
    assert {"inLine": anchor.pem} in found["spec"]["sources"]
