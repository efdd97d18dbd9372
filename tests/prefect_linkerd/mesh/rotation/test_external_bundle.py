"""A trust bundle that is not the chart's: the ConfigMap or its owner's object is written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.identity.certificate_anchor import TRUST_MANAGER
from prefect_linkerd.mesh.identity.trust_anchor import BUNDLE, TRUST_ROOTS, ensure_trust_anchor
from prefect_linkerd.mesh.install.namespaces import ensure_namespaces
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.rotation.trust_bundle import read_trust_bundle
from sandbox.cluster import Sandbox
from tests.support.cluster_state import resource_versions, settled_versions
from tests.support.invariant import Invariant
from tests.support.meshes import add_workloads, configuration, install, store_of
from tests.support.rotations import rotate
from tests.support.trust_manager import HOME, apply_patiently, helm_install
from tests.support.waiting import eventually


def roots(text: str) -> dict[str, Any]:
    metadata = {"name": TRUST_ROOTS, "namespace": "linkerd"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {BUNDLE: text}}


def make_bundle(sandbox: Sandbox, helm: str, shared: Path, text: str) -> None:
    """Installs trust-manager's chart without cert-manager, and a Bundle with an in-line source."""
    charts = shared / "charts" / "jetstack"
    own = {"app.webhook.tls.helmCert.enabled": "true"}
    helm_install(sandbox, helm, "trust-manager", next(charts.glob("trust-*.tgz")), HOME, **own)
    cluster = sandbox.cluster()
    apply_patiently(
        cluster,
        {
            "apiVersion": TRUST_MANAGER,
            "kind": "Bundle",
            "metadata": {"name": TRUST_ROOTS},
            "spec": {
                "sources": [{"inLine": text}],
                "target": {
                    "configMap": {"key": BUNDLE},
                    "namespaceSelector": {"matchLabels": {"linkerd.io/is-control-plane": "true"}},
                },
            },
        },
    )
    eventually(lambda: cluster.get("v1", "ConfigMap", TRUST_ROOTS, "linkerd"), every=0.1)


@pytest.mark.parametrize("owner", ["config-map", "trust-manager"])
def test_a_bundle_that_the_chart_does_not_own_is_rotated_too(
    owner: str,
    fresh_sandbox: Callable[..., Sandbox],
    shared_dir: Path,
    helm_path: str,
    tmp_path: Path,
) -> None:
    sandbox = fresh_sandbox()
    cluster = sandbox.cluster()
    external = {"inline": {"identity": {"externalCA": True}}}
    config = configuration("stable-2.14.10", shared_dir, tmp_path, values=external)
    ensure_namespaces(Mesh(cluster, config))
    store = store_of(cluster, config)
    anchor = ensure_trust_anchor(Mesh(cluster, config), store, datetime.now(UTC))
    if owner == "trust-manager":
        make_bundle(sandbox, helm_path, shared_dir, anchor.bundle)
    else:
        cluster.apply(roots(anchor.bundle))
    install(cluster, config, helm_path)
    add_workloads(cluster, 6)
    before = read_trust_bundle(Mesh(cluster, config))
    assert before.owner == owner

    with Invariant(sandbox):
        phases = rotate(cluster, config, helm_path)

    assert phases[-1] == "done"
    after = read_trust_bundle(Mesh(cluster, config))
    assert len(after.anchors) == 1
    assert after.anchors == after.declared_anchors
    assert not after.anchors & before.anchors
    seen = settled_versions(cluster)
    install(cluster, config, helm_path)
    assert resource_versions(cluster) == seen
