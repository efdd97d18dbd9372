"""What an uninstall removes and what it leaves, on real meshes of one chart and of several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import PreflightFailed
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.client import DesiredRelease, Helm
from prefect_linkerd.mesh.helm.records import read_releases
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.plan import require_acceptable
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.mesh.uninstall.plan import Gone, UninstallPlan
from prefect_linkerd.mesh.uninstall.run import Uninstall, inspect_uninstall
from tests.support.meshes import add_workloads
from tests.support.people import by_kubectl
from tests.support.ready_meshes import ReadyMesh
from tests.support.waiting import eventually

EVERYTHING = UninstallOptions(crds=True, namespaces=True)
PROFILE: dict[str, Any] = {
    "apiVersion": "linkerd.io/v1alpha2",
    "kind": "ServiceProfile",
    "metadata": {"name": "web.apps.svc.cluster.local", "namespace": "apps"},
    "spec": {"routes": [{"name": "root", "condition": {"method": "GET", "pathRegex": "/"}}]},
}
FLUX = {"kustomize.toolkit.fluxcd.io/name": "mesh", "kustomize.toolkit.fluxcd.io/namespace": "flux"}


def planned(
    cluster: Cluster, config: MeshConfig, *accepted: str, options: UninstallOptions | None = None
) -> UninstallPlan:
    options = options or UninstallOptions()
    return inspect_uninstall(Mesh(cluster, config), options, frozenset(accepted), "file anchor.key")


def carried_out(
    cluster: Cluster, helm: str, plan: UninstallPlan, told: Callable[[Gone], None] = lambda _: None
) -> None:
    require_acceptable(plan.findings, "uninstall")
    mesh = Mesh(cluster, MeshConfig(timeout_seconds=120), Helm(cluster, helm))
    run = Uninstall(mesh, plan, told)
    run.remove(None)
    run.delete_namespaces()


def uids(cluster: Cluster) -> dict[str, str]:
    """The UIDs of every CRD and of the application's own objects."""
    kinds = [
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", None),
        ("linkerd.io/v1alpha2", "ServiceProfile", "apps"),
        ("apps/v1", "Deployment", "apps"),
    ]
    return {
        f"{kind}/{obj['metadata']['name']}": obj["metadata"]["uid"]
        for api_version, kind, namespace in kinds
        for obj in cluster.list(api_version, kind, namespace)
    }


def left_of_linkerd(cluster: Cluster) -> list[str]:
    """What is left of a control plane: workloads, webhooks and roles."""
    kinds = (
        ("apps/v1", "Deployment"),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
        ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    )
    return [
        f"{kind}/{obj['metadata']['name']}"
        for api_version, kind in kinds
        for obj in cluster.list(api_version, kind)
        if obj["metadata"]["name"].startswith("linkerd-")
    ]


def test_a_namespace_goes_with_the_dependency_that_is_in_it(
    cluster: Cluster, namespace: str, helm_path: str, tmp_path: Path
) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: traefik, version: 1.0.0}")
    (tmp_path / "templates/service.yaml").write_text(
        "{apiVersion: v1, kind: Service, metadata: {name: traefik}, spec: {ports: [{port: 80}]}}"
    )
    cluster.merge("v1", "Namespace", namespace, None, {"metadata": {"labels": MADE_HERE}})
    chart = Chart("traefik", "1.0.0", "", "", "here", tmp_path)
    Helm(cluster, helm_path).reconcile(DesiredRelease("traefik", namespace, chart, {}))
    # Another test may have left a mesh's namespace here, so use another name.
    places = {"traefik": namespace, "linkerd": f"{namespace}-linkerd"}
    config = MeshConfig.model_validate({"namespaces": places, "traefik": {"enabled": True}})
    options = UninstallOptions(namespaces=True, dependencies=["traefik"])
    plan = planned(cluster, config, options=options)
    # Releases of a chart named traefik in other tests' namespaces would be uninstalled too.
    here = [gone.name for gone in plan.goes if namespace in gone.subject]
    assert here == ["traefik", namespace]
    # An object of somebody else keeps the namespace.
    mine = {"name": "mine", "namespace": namespace}
    by_kubectl(cluster, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": mine})
    plan = planned(cluster, config, options=options)
    assert "ConfigMap/" in {s.subject: s.reason for s in plan.stays}[f"Namespace/{namespace}"]


class Stopped(Exception):
    """The run that is interrupted."""


@pytest.mark.parametrize("version", ["stable-2.11.5", "edge-26.8.3"])
def test_a_mesh_goes_and_what_others_use_stays(
    version: str, ready_mesh: ReadyMesh, helm_path: str
) -> None:
    sandbox, config = ready_mesh(version)
    cluster = sandbox.cluster()
    add_workloads(cluster, 1)
    by_kubectl(cluster, PROFILE)
    labels = {"metadata": {"labels": FLUX}}
    cluster.merge("v1", "Service", "linkerd-identity", "linkerd", labels)
    before = uids(cluster)
    control_plane = "linkerd2" if version == "stable-2.11.5" else "linkerd-control-plane"

    # A workload with a proxy is named and blocks everything.
    plan = planned(cluster, config)
    assert [gone.name for gone in plan.goes if gone.release] == [control_plane]
    (finding,) = plan.findings
    assert (finding.id, "Deployment/apps/app-0000" in finding.message) == ("injected", True)
    stays = {each.subject: each.reason for each in plan.stays}
    assert "Flux" in stays["Service/linkerd/linkerd-identity"]
    assert "asked for" in stays["Namespace/linkerd"]
    with pytest.raises(PreflightFailed, match="injected"):
        carried_out(cluster, helm_path, plan)
    assert uids(cluster) == before

    # Interrupted after the control plane, and resumed.
    def stop(gone: Gone) -> None:
        if gone.kind == "object":
            raise Stopped

    with pytest.raises(Stopped):
        carried_out(cluster, helm_path, planned(cluster, config, "injected"), stop)
    rest = planned(cluster, config)
    assert rest.goes
    assert not rest.findings
    carried_out(cluster, helm_path, rest)
    assert left_of_linkerd(cluster) == []
    assert uids(cluster) == before
    assert cluster.get("v1", "Service", "linkerd-identity", "linkerd") is not None
    assert cluster.get("v1", "Secret", "linkerd-identity-issuer", "linkerd") is None
    assert planned(cluster, config).is_done

    # CRDs and namespaces go when requested, except a namespace with somebody else's object.
    plan = planned(cluster, config, options=EVERYTHING)
    assert [f.id for f in plan.findings] == ["custom-resources"]
    assert "ServiceProfile/apps/web.apps.svc.cluster.local" in plan.findings[0].message
    stays = {each.subject: each.reason for each in plan.stays}
    assert "Service/linkerd/linkerd-identity" in stays["Namespace/linkerd"]
    cluster.delete("v1", "Service", "linkerd-identity", "linkerd")
    carried_out(
        cluster, helm_path, planned(cluster, config, "custom-resources", options=EVERYTHING)
    )
    assert cluster.get("v1", "Namespace", "linkerd") is None
    assert read_releases(cluster) == ()
    eventually(lambda: not [key for key in uids(cluster) if "linkerd.io" in key])
    assert uids(cluster).keys() >= {"Deployment/app-0000"}
    assert planned(cluster, config, options=EVERYTHING).is_done
    key = config.trust_anchor.key_file
    assert key is not None
    assert key.exists()
