"""Meshes whose control plane is managed by something else: read in full, written by no flow."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from prefect_linkerd.mesh.bootstrap.plan import plan_bootstrap, require_bootstrap_plan
from prefect_linkerd.mesh.bootstrap.snapshot import read_bootstrap
from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import MeshError, OwnershipConflict
from prefect_linkerd.mesh.helm.charts import ChartCatalog, charts_of
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.installed import MARKS, Part, read_mesh_releases
from prefect_linkerd.mesh.helm.records import (
    RELEASE_NAME,
    RELEASE_NAMESPACE,
    deployed,
    revisions,
    secret_name,
)
from prefect_linkerd.mesh.identity.trust_anchor import ANCHOR_SECRET, TRUST_ROOTS
from prefect_linkerd.mesh.kubernetes.client import MERGE_PATCH, Cluster, Object
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.report.report import verify
from prefect_linkerd.mesh.rotation.options import NewAnchor
from prefect_linkerd.mesh.rotation.plan import inspect_rotation
from prefect_linkerd.mesh.rotation.trust_bundle import (
    TrustBundle,
    require_writable_bundle,
    require_writable_key,
)
from prefect_linkerd.mesh.rotation.webhooks import inspect_webhooks
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
from prefect_linkerd.mesh.upgrade.plan import plan_upgrade, require_plan
from prefect_linkerd.mesh.upgrade.snapshot import read_plan
from tests.support.advice import follows
from tests.support.cluster_state import resource_versions, settled_versions
from tests.support.installed import SCOPES
from tests.support.meshes import store_of
from tests.support.people import applied
from tests.support.ready_meshes import ReadyMesh
from tests.support.rotations import FAST, ring_of

SOURCE, TARGET = "edge-25.4.4", "edge-26.8.3"
PARTS: tuple[Part, ...] = ("linkerd-crds", "linkerd-control-plane")
INSTANCE = "app.kubernetes.io/instance"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
LINKERDS = "linkerd.io/created-by"


def release_objects(cluster: Cluster) -> list[Object]:
    """The live objects of the mesh's releases."""
    found: list[Object] = []
    for part in PARTS:
        revision = deployed(cluster, part, "linkerd")
        assert revision is not None
        for obj in revision.manifest:
            name, place = obj["metadata"]["name"], obj["metadata"].get("namespace", "linkerd")
            if (live := cluster.get(obj["apiVersion"], obj["kind"], name, place)) is not None:
                found.append(live)
    return found


def mark(cluster: Cluster, objects: list[Object], **metadata: Any) -> None:
    for obj in objects:
        name, place = obj["metadata"]["name"], obj["metadata"].get("namespace")
        cluster.merge(obj["apiVersion"], obj["kind"], name, place, {"metadata": metadata})


def flux(cluster: Cluster) -> str:
    """helm-controller labels the objects of its releases; Helm's records exist."""
    prefix = "helm.toolkit.fluxcd.io"
    labels = {f"{prefix}/name": "linkerd", f"{prefix}/namespace": "flux-system"}
    mark(cluster, release_objects(cluster), labels=labels)
    return "Flux's HelmRelease/flux-system/linkerd"


def terraform(cluster: Cluster) -> str:
    """Its Helm provider leaves plain records, written by its own field manager."""
    prefix = "helm.toolkit.fluxcd.io"
    mark(
        cluster,
        release_objects(cluster),
        labels={f"{prefix}/name": None, f"{prefix}/namespace": None},
    )
    for part in PARTS:
        for revision in revisions(cluster, part, "linkerd"):
            name = secret_name(part, revision.number)
            record = cluster.get("v1", "Secret", name, "linkerd")
            assert record is not None
            cluster.delete("v1", "Secret", name, "linkerd")
            metadata = {key: record["metadata"][key] for key in ("name", "namespace", "labels")}
            applied(
                cluster,
                {**record, "metadata": metadata},
                "terraform-provider-helm_v2.17.0_x5",
            )
    return "Terraform"


def argo_cd(cluster: Cluster) -> str:
    """It renders charts and applies them: no release exists, and each object carries its mark."""
    objects = release_objects(cluster)
    for part in PARTS:
        for revision in revisions(cluster, part, "linkerd"):
            cluster.delete("v1", "Secret", secret_name(part, revision.number), "linkerd")
    for obj in objects:
        group = obj["apiVersion"].rpartition("/")[0]
        place = f"{obj['metadata'].get('namespace', '')}/{obj['metadata']['name']}"
        tracking = f"linkerd-mesh:{group}/{obj['kind']}:{place}"
        annotations = {
            "argocd.argoproj.io/tracking-id": tracking,
            RELEASE_NAME: None,
            RELEASE_NAMESPACE: None,
        }
        mark(cluster, [obj], annotations=annotations)
    return "Argo CD's Application linkerd-mesh"


def argo_cd_by_label(cluster: Cluster) -> str:
    """Before 3.0 its default mark is a label that charts also set; managedFields name it.

    Source: gitops-engine `pkg/utils/kube/resource_ops.go` (newApplyOptions).
    """
    annotations = {"argocd.argoproj.io/tracking-id": None, LAST_APPLIED: "{}"}
    metadata = {"annotations": annotations, "labels": {INSTANCE: "linkerd-by-label"}}
    for obj in release_objects_by_argo_cd(cluster):
        name, place = obj["metadata"]["name"], obj["metadata"].get("namespace")
        cluster.request(
            "PATCH",
            cluster.path(obj["apiVersion"], obj["kind"], place, name),
            query={"fieldManager": "argocd-controller"},
            body={"metadata": metadata},
            content_type=MERGE_PATCH,
        )
    return "Argo CD's Application linkerd-by-label"


def argo_cd_without_managed_fields(cluster: Cluster) -> str:
    """Only the label remains, as after a restored backup or with too many writers."""
    objects = release_objects_by_argo_cd(cluster)
    mark(cluster, objects, labels={INSTANCE: "linkerd-restored"})
    mark(cluster, objects, managedFields=[{}])
    return "Argo CD's Application linkerd-restored"


def release_objects_by_argo_cd(cluster: Cluster) -> list[Object]:
    """The mesh's marked objects, which Argo CD has taken over."""
    return [
        found
        for api_version, kind, place in {
            (*MARKS[part][:2], None if part == "linkerd-crds" else "linkerd") for part in PARTS
        }
        for found in cluster.list(api_version, kind, place)
        if LINKERDS in (found["metadata"].get("annotations") or {})
    ]


def plans(cluster: Cluster, config: MeshConfig, helm: Helm) -> dict[str, Callable[[], Any]]:
    """What each flow does before its first write."""
    store, ring, now = store_of(cluster, config), ring_of(cluster, config), datetime.now(UTC)
    charts = [ChartCatalog(config).find(name) for name in charts_of(config)]

    def upgrade() -> Any:
        return read_plan(Mesh(cluster, config, helm), LinkerdVersion.parse(TARGET))

    return {
        "bootstrap": lambda: require_bootstrap_plan(
            plan_bootstrap(read_bootstrap(Mesh(cluster, config, helm), charts, store))
        ),
        "upgrade": lambda: require_plan(plan_upgrade(upgrade())),
        "rotate_anchor": lambda: inspect_rotation(
            Mesh(cluster, config), ring, NewAnchor(), FAST, "rotate", now
        ),
        "rotate_webhooks": lambda: inspect_webhooks(Mesh(cluster, config)),
    }


@pytest.mark.timeout(300)
def test_each_driver_is_named_by_every_flow_that_would_write(
    ready_mesh: ReadyMesh, helm_path: str
) -> None:
    sandbox, config = ready_mesh(SOURCE)
    cluster = sandbox.cluster()
    helm = Helm(cluster, helm_path)
    for take_over in (flux, terraform, argo_cd, argo_cd_by_label):
        owner = take_over(cluster)
        before = settled_versions(cluster)
        for flow, plan in plans(cluster, config, helm).items():
            with pytest.raises(MeshError) as caught:
                plan()
            assert owner in str(caught.value), (flow, str(caught.value))
        # Reads work in full.
        snapshot = read_snapshot(Mesh(cluster, config))
        assert not snapshot.unread
        report = verify(snapshot, CATEGORIES, SCOPES)
        errors = {r.check.id: str(r.problems[0]) for r in report.failing if r.outcome == "error"}
        assert not errors, owner
        assert resource_versions(cluster) == before
    owner = argo_cd_without_managed_fields(cluster)
    found = read_mesh_releases(cluster, config).owners
    assert {part: str(found[part]) for part in PARTS} == dict.fromkeys(PARTS, owner)


# What a rotation writes beside releases


KUSTOMIZE = {"kustomize.toolkit.fluxcd.io/name": "apps"}


@follows("Make it leave the content alone: a rotation writes the anchors there.")
def test_a_bundle_that_something_else_brings_back_is_not_rotated(
    cluster: Cluster, namespace: str
) -> None:
    config = MeshConfig.model_validate({"namespaces": {"linkerd": namespace}})
    metadata = {"name": TRUST_ROOTS, "namespace": namespace, "labels": KUSTOMIZE}
    roots = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {}}
    bundle = TrustBundle("", None, "config-map", None, "")
    require_writable_bundle(Mesh(cluster, config), bundle)
    applied(cluster, roots, "kustomize-controller")
    with pytest.raises(OwnershipConflict, match="Flux's Kustomization/apps"):
        require_writable_bundle(Mesh(cluster, config), bundle)
    # As advised: Flux leaves it alone.
    cluster.delete("v1", "ConfigMap", TRUST_ROOTS, namespace)
    applied(cluster, {**roots, "metadata": {**metadata, "labels": {}}}, "kubectl")
    require_writable_bundle(Mesh(cluster, config), bundle)


@follows("Make it leave the content alone: a rotation writes the new anchor and its key there.")
def test_an_anchors_key_that_something_else_brings_back_is_not_rotated(
    cluster: Cluster, namespace: str
) -> None:
    config = MeshConfig.model_validate(
        {"namespaces": {"linkerd": namespace}, "trust_anchor": {"custody": "in-cluster"}}
    )
    owner = {
        "apiVersion": "bitnami.com/v1alpha1",
        "kind": "SealedSecret",
        "name": ANCHOR_SECRET,
        "uid": "0",
        "controller": True,
    }
    metadata = {"name": ANCHOR_SECRET, "namespace": namespace, "ownerReferences": [owner]}
    data = {"tls.crt": base64.b64encode(b"x").decode()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
    applied(cluster, secret, "controller")
    with pytest.raises(OwnershipConflict, match=f"SealedSecret/{namespace}/{ANCHOR_SECRET}"):
        require_writable_key(Mesh(cluster, config))
    # As advised: what restored it no longer manages it.
    cluster.delete("v1", "Secret", ANCHOR_SECRET, namespace)
    own = {"name": ANCHOR_SECRET, "namespace": namespace}
    applied(cluster, {**secret, "metadata": own}, "kubectl")
    require_writable_key(Mesh(cluster, config))
    offline = config.trust_anchor.model_copy(update={"custody": "offline"})
    require_writable_key(Mesh(cluster, config.model_copy(update={"trust_anchor": offline})))
