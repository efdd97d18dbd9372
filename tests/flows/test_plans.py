"""The plans of bootstrap and upgrade on a user's mesh: they announce everything it would lose."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.checks.options import DEFAULT_SCOPES
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.helm.client import Helm, desired_release
from prefect_linkerd.mesh.helm.records import read_release
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor
from prefect_linkerd.mesh.report.report import verify
from prefect_linkerd.mesh.restarts import PROXY_VERSION
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
from tests.support.cluster_state import resource_versions, settled_versions
from tests.support.flows import ConfigFactory, Flows
from tests.support.meshes import add_workloads
from tests.support.ready_meshes import ReadyMesh
from tests.support.upgrades import installed_alone

SOURCE, TARGET = "stable-2.13.7", "stable-2.14.10"
VALUES: dict[str, Any] = {
    "clusterNetworks": "10.0.0.0/8,100.64.0.0/10,203.0.113.0/24",
    "proxy": {"resources": {"memory": {"limit": "250Mi"}}},
    "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "mesh"}],
}


def proxies_of(cluster: Cluster, name: str) -> set[tuple[str, str]]:
    """The UID and the proxy's version of each pod of a workload."""
    return {
        (pod["metadata"]["uid"], container["image"].rpartition(":")[2])
        for pod in cluster.list("v1", "Pod", "apps", labels=f"app={name}")
        for container in pod["spec"]["containers"]
        if container["name"] == "linkerd-proxy" and not pod["metadata"].get("deletionTimestamp")
    }


def with_newer_crds(cluster: Cluster, config: dict[str, Any], helm_path: str) -> None:
    """Leaves newer CRDs, as an undone upgrade does."""
    newer = MeshConfig.model_validate({**config, "version": TARGET})
    chart = ChartCatalog(newer).find("linkerd-crds")
    Helm(cluster, helm_path).reconcile(desired_release(newer, chart, {}))


def test_no_plan_is_silent_about_a_loss(
    ready_mesh: ReadyMesh,
    mesh_config: ConfigFactory,
    flows: Flows,
    helm_path: str,
    tmp_path: Path,
) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(VALUES))
    sandbox, whole = installed_alone(
        ready_mesh,
        mesh_config,
        name="plans",
        version=SOURCE,
        emojivoto={"enabled": False},
        values={"files": [str(file)]},
        upgrade={"settle_seconds": 3},
    )
    cluster = sandbox.cluster()
    add_workloads(cluster, 2)
    annotation = {"metadata": {"annotations": {PROXY_VERSION: SOURCE}}}
    pinned = {"spec": {"template": annotation}}
    cluster.merge("apps/v1", "Deployment", "app-0001", "apps", pinned)

    # CRDs that are newer than the control plane are fine, and stay.
    with_newer_crds(cluster, whole, helm_path)
    done = flows("bootstrap", whole)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "The CRDs stay: linkerd-crds 1.8.0 is newer than 1.6.1" in done.stderr
    before = settled_versions(cluster)
    dry = json.loads(flows("bootstrap", whole, dry_run=True).stdout.splitlines()[-1])
    assert dry == {
        "done": True,
        "findings": [],
        "steps": {"linkerd-crds": "kept", "linkerd-control-plane": "unchanged"},
    }
    report = verify(
        read_snapshot(Mesh(cluster, MeshConfig.model_validate(whole))), CATEGORIES, DEFAULT_SCOPES
    )
    assert not [r.check.id for r in report.failing if r.check.id.startswith("pl-release")]

    # The configuration lacks values that the release has.
    bare = {**whole, "values": {}}
    dry = json.loads(flows("bootstrap", bare, dry_run=True).stdout.splitlines()[-1])
    assert dry["findings"] == ["values-lost"]
    assert dry["steps"]["linkerd-control-plane"] == "upgrade"
    page = flows.report("linkerd-plans-bootstrap-plan")
    assert "| linkerd-control-plane | upgrade | 1.12.7 | 1.12.7 |" in page
    assert "| Deployment/linkerd/linkerd-destination | update |" in page
    assert '- proxy.resources.memory.limit: "250Mi"' in page
    refused = flows("bootstrap", bare)
    assert refused.returncode != 0
    upgrade = flows.upgrade(bare, to=TARGET)
    assert upgrade["error"] == "PreflightFailed"
    for text in (refused.stderr, upgrade["message"]):
        assert "clusterNetworks, proxy.resources.memory.limit, tolerations" in text
        assert "{values: {inline: {clusterNetworks: " in text
        assert "A person may accept" in text
    assert "Deployment/apps/app-0001: annotation" in upgrade["message"]

    # A trust anchor pasted into a values file that is not the mesh's.
    other = create_trust_anchor("cluster.local", timedelta(days=9), datetime.now(UTC))
    pasted = tmp_path / "pasted.yaml"
    pasted.write_text("# ours\n" + yaml.safe_dump({"identityTrustAnchorsPEM": other.certificate}))
    wrong = {**whole, "values": {"files": [str(file), str(pasted)]}}
    said = flows("bootstrap", wrong).stderr
    upgrade = flows.upgrade(wrong, to=TARGET, accept=["safety-values", "pinned-proxy"])
    for text in (said, upgrade["message"]):
        assert f"values file {pasted}, line 2: identityTrustAnchorsPEM is sha256" in text
    assert resource_versions(cluster) == before

    # The pinned workload is left alone, and the rest is upgraded.
    kept = proxies_of(cluster, "app-0001")
    assert {version for _, version in kept} == {SOURCE}
    arrived = flows.upgrade(whole, to=TARGET, accept=["pinned-proxy"])
    assert arrived.get("target") == TARGET, arrived
    assert proxies_of(cluster, "app-0001") == kept
    assert {version for _, version in proxies_of(cluster, "app-0000")} == {TARGET}
    assert "Deployment/apps/app-0001" in flows.report("linkerd-plans-upgrade")
    release = read_release(cluster, "linkerd-control-plane", "linkerd")
    assert release is not None
    assert release.values is not None
    assert release.values["tolerations"] == VALUES["tolerations"]
    assert flows.upgrade({**whole, "version": TARGET}, to=TARGET)["done"]
