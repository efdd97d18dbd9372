"""Whole rotations with real charts, while every pair of running proxies is checked throughout."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from prefect_linkerd.mesh.checks.certificates import certificates
from prefect_linkerd.mesh.identity.trust_anchor import read_tls_secret
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import fingerprints, read_certificates
from prefect_linkerd.mesh.records.rotation import RECORD, read_record
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.trust_bundle import VALUE, read_trust_bundle
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
from sandbox.cluster import Sandbox
from tests.support.cluster_state import resource_versions, settled_versions
from tests.support.invariant import Invariant, split
from tests.support.loopback import probe_on_simulated_nodes
from tests.support.meshes import add_workloads, install, store_of
from tests.support.ready_meshes import ReadyMesh
from tests.support.rotations import FAST, rotate

VERSIONS = ("stable-2.11.5", "stable-2.12.6", "stable-2.14.10", "edge-26.8.3")
ISSUERS = ("self-signed", "cert-manager")
LARGE = 300
SMALL = 20
# The effects of a version or issuer mode show with few workloads, so only the oldest and the newest
# version are large. `make rotations` makes all eight large.
LARGE_ONES = {("stable-2.11.5", "self-signed"), ("edge-26.8.3", "cert-manager")}
GENTLE_ONES = {("edge-26.8.3", "cert-manager")}
PATIENT = FAST.model_copy(update={"lease_seconds": 60.0})


@pytest.mark.parametrize("issuer", ISSUERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_anchor_is_replaced_and_no_proxy_ever_fails_to_verify_another(
    version: str,
    issuer: str,
    ready_mesh: ReadyMesh,
    helm_path: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    by_default = LARGE if (version, issuer) in LARGE_ONES else SMALL
    workloads: int = request.config.getoption("--workloads") or by_default
    sandbox, config = ready_mesh(version, issuer)
    cluster = sandbox.cluster()
    add_workloads(cluster, workloads)
    trusted = read_trust_bundle(Mesh(cluster, config))
    before = trusted.anchors
    is_gentle = (version, issuer) in GENTLE_ONES
    options = PATIENT.model_copy(
        update={"pace": "gentle", "leaf_minutes": 0.1} if is_gentle else {}
    )

    with ExitStack() as stack:
        client, probe = (
            stack.enter_context(probe_on_simulated_nodes(sandbox, cluster, config, tmp_path))
            if is_gentle
            else (cluster, None)
        )
        invariant = stack.enter_context(Invariant(sandbox))
        phases = rotate(client, config, helm_path, options=options, probe=probe)

    assert phases == ["bundle", "spread", "switch", "drop", "done"]
    assert invariant.largest >= workloads + 3
    bundle = read_trust_bundle(Mesh(cluster, config))
    assert len(bundle.anchors) == 1
    assert bundle.anchors == bundle.declared_anchors
    assert not bundle.anchors & before
    only_the_new_anchor_is_used(sandbox, cluster, bundle.anchors, before if is_gentle else None)

    ring = KeyRing(store_of(cluster, config))
    kept = ring.current.load()
    assert kept is not None
    assert fingerprints(kept.certificate, "kept") == bundle.anchors
    assert (ring.next.load(), ring.previous.load()) == (None, None)
    assert read_tls_secret(cluster, "linkerd-identity-issuer-previous", "linkerd") is None
    record = read_record(cluster, "linkerd")
    assert record is not None
    assert (record.phase, {record.goal}) == ("done", bundle.anchors)
    if is_gentle:
        assert probe is not None
        assert probe.outcome.sentence.endswith(", 0 failed")
        # One round of restarts, except for the control plane; the release's values are restored.
        assert record.restarted.keys() <= {"spread", "switch"}
        applications = [name for name in record.restarted["spread"] if "/apps/" in name]
        assert len(applications) == workloads
        assert not any("/apps/" in name for name in record.restarted.get("switch", ()))
        assert trusted.release is not None
        assert bundle.release is not None
        assert bundle.release.values == {
            **(trusted.release.values or {}),
            VALUE: bundle.declared,
        }
        result = next(
            each
            for each in certificates.run(read_snapshot(Mesh(cluster, config))).results
            if each.check.id == "pl-anchor-dropped"
        )
        assert f"{workloads} proxies still trust" in str(result.problems[0])
    else:
        assert record.restarted.keys() == {"spread", "switch", "drop"}
    assert "PRIVATE KEY" not in str(cluster.get("v1", "ConfigMap", RECORD, "linkerd"))

    # Running bootstrap again adopts the new anchor and changes nothing.
    seen = settled_versions(cluster)
    install(cluster, config, helm_path)
    assert resource_versions(cluster) == seen


def only_the_new_anchor_is_used(
    sandbox: Sandbox,
    cluster: Cluster,
    anchors: frozenset[str],
    lingering: frozenset[str] | None,
) -> None:
    """Every running proxy trusts the new anchor and has a certificate of it.

    Args:
        lingering: the old anchors, if proxies may still trust them.
    """
    issuer = read_tls_secret(cluster, "linkerd-identity-issuer", "linkerd")
    assert issuer is not None
    signing = read_certificates(issuer.certificate, "issuer")[0].fingerprint
    for proxy in sandbox.proxies():
        assert fingerprints(proxy.bundle, proxy.name) - (lingering or set()) == anchors, proxy.name
        _, chain = split(proxy.chain)
        assert read_certificates(chain, proxy.name)[0].fingerprint == signing, proxy.name
