"""Whole rotations, with real charts, while every pair of running proxies is checked throughout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.cluster import Cluster
from mesh.pki import fingerprints, read_certificates
from mesh.rotation.key_ring import KeyRing
from mesh.rotation.record import RECORD, read_record
from mesh.rotation.trust_bundle import read_trust_bundle
from mesh.trust_anchor import read_tls_secret
from sandbox.cluster import Sandbox
from tests.flows.cluster_state import resource_versions
from tests.rotation.invariant import Invariant, split
from tests.rotation.meshes import add_workloads, configuration, install, rotate, store_of

# The largest mesh once; what a version or an issuer mode changes shows with fewer workloads.
CASES = [
    pytest.param("stable-2.11.5", "self-signed", 300, id="2.11.5 self-signed, 300 workloads"),
    pytest.param("stable-2.12.6", "cert-manager", 30, id="2.12.6 cert-manager"),
    pytest.param("stable-2.14.10", "self-signed", 30, id="2.14.10 self-signed"),
    pytest.param("edge-26.8.3", "cert-manager", 30, id="edge-26.8.3 cert-manager"),
]


@pytest.mark.parametrize(("version", "issuer", "workloads"), CASES)
def test_an_anchor_is_replaced_and_no_proxy_ever_fails_to_verify_another(
    version: str,
    issuer: str,
    workloads: int,
    fresh_sandbox: Callable[..., Sandbox],
    shared_dir: Path,
    helm_path: str,
    tmp_path: Path,
) -> None:
    sandbox = fresh_sandbox()
    cluster = sandbox.cluster()
    config = configuration(version, shared_dir, tmp_path, issuer)
    install(cluster, config, helm_path)
    add_workloads(cluster, workloads)
    before = read_trust_bundle(cluster, config).anchors

    with Invariant(sandbox) as invariant:
        phases = rotate(cluster, config, helm_path)

    assert phases == ["bundle", "spread", "switch", "drop", "done"]
    assert invariant.largest >= workloads + 3
    bundle = read_trust_bundle(cluster, config)
    assert len(bundle.anchors) == 1
    assert bundle.anchors == bundle.declared_anchors
    assert not bundle.anchors & before
    only_the_new_anchor_is_left(sandbox, cluster, bundle.anchors)

    ring = KeyRing(store_of(cluster, config))
    kept = ring.current.load()
    assert kept is not None
    assert fingerprints(kept.certificate, "kept") == bundle.anchors
    assert (ring.next.load(), ring.previous.load()) == (None, None)
    assert read_tls_secret(cluster, "linkerd-identity-issuer-previous", "linkerd") is None
    record = read_record(cluster, "linkerd")
    assert record is not None
    assert (record.phase, {record.goal}) == ("done", bundle.anchors)
    assert "PRIVATE KEY" not in str(cluster.get("v1", "ConfigMap", RECORD, "linkerd"))

    # Bootstrap run again adopts the new anchor and changes nothing.
    seen = resource_versions(cluster)
    install(cluster, config, helm_path)
    assert resource_versions(cluster) == seen


def only_the_new_anchor_is_left(
    sandbox: Sandbox, cluster: Cluster, anchors: frozenset[str]
) -> None:
    """What every running proxy carries is of the new anchor."""
    issuer = read_tls_secret(cluster, "linkerd-identity-issuer", "linkerd")
    assert issuer is not None
    signing = read_certificates(issuer.certificate, "issuer")[0].fingerprint
    for proxy in sandbox.proxies():
        assert fingerprints(proxy.bundle, proxy.name) == anchors, proxy.name
        _, chain = split(proxy.chain)
        assert read_certificates(chain, proxy.name)[0].fingerprint == signing, proxy.name
