"""Without any permission, a command at a terminal names all that it needs at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from prefect_linkerd.cli.app import main
from prefect_linkerd.cli.missing_permissions import named_together
from prefect_linkerd.deployments.grants import RBAC, Grant, Held, always, mesh_reads, status_reads
from prefect_linkerd.deployments.roles import FLOWS, grants_of, rules
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.permissions import Permission
from tests.support.identities import as_account
from tests.support.waiting import eventually

COMMANDS = {
    "status": (
        "list secrets in namespace linkerd",
        "get configmaps prefect-linkerd-upgrade in namespace linkerd",
    ),
    "certificates": (
        "get configmaps linkerd-identity-trust-roots in namespace linkerd",
        "get secrets linkerd-identity-issuer in namespace linkerd",
    ),
    "adopt": ("get, list secrets in the cluster", "list deployments.apps in the cluster"),
    "smoke-test": (
        "create, patch, list services in namespace emojivoto",
        "create, patch, list, delete jobs.batch in namespace emojivoto",
    ),
    "rotate-webhooks": (
        "get secrets linkerd-proxy-injector-k8s-tls in namespace linkerd",
        "get, update configmaps prefect-linkerd-rotation in namespace linkerd",
    ),
}


@pytest.fixture
def nobody(cluster: Cluster, namespace: str, tmp_path: Path) -> Path:
    """A mesh file for a service account without a role."""
    who = {"name": "nobody", "namespace": namespace}
    cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": who})
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(as_account(cluster, namespace, "nobody")._as_kubeconfig()))
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text(yaml.safe_dump({"access": {"kubeconfig": str(kubeconfig)}}))
    return mesh


@pytest.mark.usefixtures("helm_on_path")
def test_a_refused_command_names_all_that_is_missing(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for command, lacking in COMMANDS.items():
        assert main([command, str(nobody)]) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert f"{command} of mesh mesh: expected every permission that it needs" in said
        for each in lacking:
            assert each in said, command


def test_other_failures_stay_as_they_are(cluster: Cluster) -> None:
    lost = ApiError("x", expected="an answer", found="none", remedy="Wait.")
    with pytest.raises(ApiError), named_together("status", cluster, MeshConfig()):
        raise lost


@pytest.mark.parametrize("reads", [status_reads, mesh_reads])
def test_the_role_of_verify_mesh_is_enough_for_status(
    reads: Callable[[MeshConfig], list[Grant]],
    nobody: Path,
    cluster: Cluster,
    namespace: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mesh = yaml.safe_load(nobody.read_text()) | {"namespaces": {"linkerd": namespace}}
    nobody.write_text(yaml.safe_dump(mesh))
    granted = reads(MeshConfig.model_validate(mesh))
    for place, scope in (("", "Cluster"), (namespace, "")):
        name = {"name": namespace, **({"namespace": place} if place else {})}
        made = {"apiVersion": f"{RBAC}/v1", "metadata": name}
        cluster.create({**made, "kind": f"{scope}Role", "rules": rules(granted, place)})
        cluster.create(
            {
                **made,
                "kind": f"{scope}RoleBinding",
                "roleRef": {"apiGroup": RBAC, "kind": f"{scope}Role", "name": namespace},
                "subjects": [{"kind": "ServiceAccount", "name": "nobody", "namespace": namespace}],
            }
        )
    eventually(lambda: main(["status", str(nobody)]) == 0, 30)
    assert "anchor's key" in capsys.readouterr().out
    for kind in ("ClusterRoleBinding", "ClusterRole"):
        cluster.delete(f"{RBAC}/v1", kind, namespace)


@pytest.mark.parametrize("flow", FLOWS)
def test_what_every_run_asks_for_is_known_without_charts(flow: str) -> None:
    assert always(grants_of(flow, MeshConfig(), {}))


def test_what_is_asked_only_sometimes_is_left_out() -> None:
    granted = [
        Grant(("get", "list"), "apps", ("deployments",), "linkerd", ("a", "b")),
        Grant(("list",), "", ("events",), sometimes=True),
        Held({"verbs": ["get"]}),
    ]
    assert always(granted) == [
        Permission(verb, "deployments", "apps", "linkerd", name)
        for verb in ("get", "list")
        for name in ("a", "b")
    ]
