"""A mesh whose trust bundle is not its chart's: the ConfigMap itself is written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from mesh.namespaces import ensure_namespaces
from mesh.trust_anchor import TRUST_ROOTS, ensure_trust_anchor
from mesh.trust_bundle import BUNDLE, read_trust_bundle
from sandbox.cluster import Sandbox
from tests.flows.cluster_state import resource_versions
from tests.rotation.invariant import Invariant
from tests.rotation.meshes import add_workloads, configuration, install, rotate, store_of


def test_a_bundle_that_the_chart_does_not_own_is_rotated_too(
    fresh_sandbox: Callable[..., Sandbox], shared_dir: Path, helm_path: str, tmp_path: Path
) -> None:
    sandbox = fresh_sandbox()
    cluster = sandbox.cluster()
    external = {"inline": {"identity": {"externalCA": True}}}
    config = configuration("stable-2.14.10", shared_dir, tmp_path, values=external)
    ensure_namespaces(cluster, config)
    store = store_of(cluster, config)
    anchor = ensure_trust_anchor(cluster, config, store, datetime.now(UTC))
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": TRUST_ROOTS, "namespace": "linkerd"},
            "data": {BUNDLE: anchor.bundle},
        }
    )
    install(cluster, config, helm_path)
    add_workloads(cluster, 6)
    before = read_trust_bundle(cluster, config)
    assert before.owner == "config-map"

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
