"""A mesh whose trust bundle is not its chart's: the ConfigMap is written, or its owner's object."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mesh.cluster import Cluster
from mesh.namespaces import ensure_namespaces
from mesh.rotation.trust_bundle import BUNDLE, TRUST_MANAGER, read_trust_bundle
from mesh.trust_anchor import TRUST_ROOTS, ensure_trust_anchor
from sandbox.cluster import Sandbox
from tests.flows.cluster_state import resource_versions
from tests.rotation.invariant import Invariant
from tests.rotation.meshes import add_workloads, configuration, install, rotate, store_of

CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "bundles.trust.cert-manager.io"},
    "spec": {
        "group": "trust.cert-manager.io",
        "scope": "Cluster",
        "names": {"kind": "Bundle", "plural": "bundles", "singular": "bundle"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}


def as_trust_manager(cluster: Cluster, over: threading.Event) -> None:
    """Does what trust-manager does with a Bundle of in-line sources: it writes the ConfigMap."""
    while not over.wait(0.3):
        bundle = cluster.get(TRUST_MANAGER, "Bundle", TRUST_ROOTS)
        assert bundle is not None
        text = "".join(source["inLine"] for source in bundle["spec"]["sources"])
        cluster.apply(roots(text, bundle))


def roots(text: str, bundle: Any = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": TRUST_ROOTS, "namespace": "linkerd"}
    if bundle is not None:
        owner = {key: bundle[key] for key in ("apiVersion", "kind")}
        metadata["ownerReferences"] = [
            {**owner, "name": TRUST_ROOTS, "uid": bundle["metadata"]["uid"], "controller": True}
        ]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {BUNDLE: text}}


def make_bundle(cluster: Cluster, text: str) -> None:
    cluster.apply(CRD)
    deadline = time.monotonic() + 30
    while not cluster.serves(TRUST_MANAGER, "Bundle"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    made = cluster.create(
        {
            "apiVersion": TRUST_MANAGER,
            "kind": "Bundle",
            "metadata": {"name": TRUST_ROOTS},
            "spec": {
                "sources": [{"inLine": text}],
                "target": {"configMap": {"key": BUNDLE}},
            },
        }
    )
    cluster.apply(roots(text, made))


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
    ensure_namespaces(cluster, config)
    store = store_of(cluster, config)
    anchor = ensure_trust_anchor(cluster, config, store, datetime.now(UTC))
    over = threading.Event()
    manager = threading.Thread(target=as_trust_manager, args=(cluster, over), daemon=True)
    if owner == "trust-manager":
        make_bundle(cluster, anchor.bundle)
        manager.start()
    else:
        cluster.apply(roots(anchor.bundle))
    install(cluster, config, helm_path)
    add_workloads(cluster, 6)
    before = read_trust_bundle(cluster, config)
    assert before.owner == owner

    with Invariant(sandbox):
        phases = rotate(cluster, config, helm_path)

    assert phases[-1] == "done"
    after = read_trust_bundle(cluster, config)
    assert len(after.anchors) == 1
    assert after.anchors == after.declared_anchors
    assert not after.anchors & before.anchors
    seen = resource_versions(cluster)
    install(cluster, config, helm_path)
    assert resource_versions(cluster) == seen
    over.set()
