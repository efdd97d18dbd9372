"""What preflight finds, decided from snapshots and read from a real API server."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from prefect_linkerd.mesh.checks.preflight import preflight
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import PreflightFailed
from prefect_linkerd.mesh.helm.installed import MeshReleases, mesh_releases
from prefect_linkerd.mesh.helm.ownership import Owner
from prefect_linkerd.mesh.helm.records import ReleaseRef
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.permissions import Permission
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.plan import require_acceptable
from prefect_linkerd.mesh.planning.preflight import (
    ForeignNamespace,
    Owned,
    PreflightSnapshot,
    denied_permissions,
    is_in_crds_chart,
    permissions,
    read_preflight,
)
from tests.support.identities import as_account
from tests.support.preflights import (
    CHARTS,
    CONFIG,
    GOOD,
    LINKERD_CLI,
    NOW,
    helm,
    release,
    with_releases,
)
from tests.support.repository import ROOT

CASES: list[tuple[str, PreflightSnapshot, str, str, str]] = [
    (
        "Kubernetes is too old",
        replace(GOOD, facts=ClusterFacts("v1.30.1", frozenset())),
        "k8s-version",
        "error",
        "it needs Kubernetes >=1.31.0-0, and this is v1.30.1",
    ),
    (
        "the clocks differ",
        replace(GOOD, server_clock=NOW + timedelta(minutes=6)),
        "pre-k8s-clock-skew",
        "error",
        "360 s",
    ),
    (
        "a permission is missing",
        replace(GOOD, denied=(Permission("create", "clusterroles", "rbac.authorization.k8s.io"),)),
        "pre-k8s-cluster-k8s",
        "error",
        "create clusterroles.rbac.authorization.k8s.io in the cluster",
    ),
    (
        "CRDs of the linkerd CLI",
        replace(GOOD, owned=(Owned("CRD/a", LINKERD_CLI, frozenset({"linkerd-crds"})),)),
        "pre-l5d-existence",
        "error",
        "owned by the linkerd CLI",
    ),
    (
        "CRDs of another release",
        replace(GOOD, owned=(Owned("CRD/a", helm("crds", "other"), frozenset({"linkerd-crds"})),)),
        "pre-l5d-existence",
        "error",
        "owned by other/crds",
    ),
    (
        "a control plane elsewhere",
        replace(GOOD, releases=(release("linkerd-control-plane", "2026.8.3", namespace="l5d"),)),
        "pre-l5d-existence",
        "error",
        "set namespaces.linkerd to l5d",
    ),
    (
        "another version is installed",
        with_releases(release("linkerd-control-plane", "2025.4.4")),
        "pl-version",
        "error",
        "use the upgrade flow",
    ),
    (
        "Flux drives the control plane",
        with_releases(
            release("linkerd-crds", "2026.8.3"),
            replace(release("linkerd-control-plane", "2026.8.3"), writer="helm-controller"),
        ),
        "pl-owner",
        "error",
        "it belongs to Flux's helm-controller (Helm release linkerd/linkerd-control-plane)",
    ),
    (
        "Argo CD made the control plane",
        replace(
            GOOD,
            installed=MeshReleases(
                {}, {"linkerd-control-plane": Owner("Argo CD", "Argo CD's mesh")}
            ),
        ),
        "pl-owner",
        "error",
        "it belongs to Argo CD's mesh",
    ),
    (
        "a namespace is Flux's and lacks a label",
        replace(
            GOOD,
            foreign_namespaces=(
                ForeignNamespace("Namespace/linkerd", Owner("Flux", "Flux's k"), ("a: b",)),
            ),
        ),
        "pl-owner",
        "error",
        "Set there: a: b.",
    ),
    (
        "a namespace is being deleted",
        replace(GOOD, terminating=("Namespace/linkerd",)),
        "pre-ns",
        "error",
        "being deleted",
    ),
    ("no node is ready", replace(GOOD, unready_nodes=3), "k8s-api", "error", "no node is Ready"),
    ("there is no node", replace(GOOD, nodes=0), "k8s-api", "error", "the cluster has none"),
    ("a node is not ready", replace(GOOD, unready_nodes=1), "k8s-api", "warning", "1 of 3"),
]


def test_a_good_cluster_has_no_finding() -> None:
    assert preflight(GOOD, CONFIG, CHARTS) == []


def test_our_own_releases_are_fine() -> None:
    own = replace(
        with_releases(
            release("linkerd-crds", "2026.8.3"),
            release("linkerd-control-plane", "2026.8.3"),
        ),
        owned=(Owned("CRD/a", helm("linkerd-crds", "linkerd"), frozenset({"linkerd-crds"})),),
    )
    assert preflight(own, CONFIG, CHARTS) == []


def test_what_is_upgraded_does_not_block_its_upgrade() -> None:
    """Such as 2.11's single release, which owns the CRDs and has another version."""
    old = release("linkerd-control-plane", "2025.4.4")
    found = replace(
        with_releases(old),
        owned=(Owned("CRD/a", helm("linkerd2", "linkerd"), frozenset({"linkerd-crds"})),),
    )
    single = ReleaseRef("linkerd2", "linkerd")
    ids = {
        upgraded: [f.id for f in preflight(found, CONFIG, CHARTS, upgraded)]
        for upgraded in [(), (single,), (old.ref,), (single, old.ref)]
    }
    assert ids == {
        (): ["pre-l5d-existence", "pl-version"],
        (single,): ["pl-version"],
        (old.ref,): ["pre-l5d-existence"],
        (single, old.ref): [],
    }


def test_newer_crds_under_an_older_control_plane_are_well() -> None:
    """As an undone upgrade leaves them."""
    found = release("linkerd-crds", "2026.9.1"), release("linkerd-control-plane", "2026.8.3")
    snapshot = replace(GOOD, releases=found, installed=mesh_releases(CONFIG, found, {}))
    assert preflight(snapshot, CONFIG, CHARTS) == []


@pytest.mark.parametrize(
    ("snapshot", "id_", "severity", "text"), [pytest.param(*case[1:], id=case[0]) for case in CASES]
)
def test_each_fault_is_found_by_its_id(
    snapshot: PreflightSnapshot, id_: str, severity: str, text: str
) -> None:
    findings = preflight(snapshot, CONFIG, CHARTS)
    assert {(f.id, f.severity) for f in findings} == {(id_, severity)}
    assert text in str(findings[0])
    assert findings[0].remedy
    if severity == "error":
        with pytest.raises(PreflightFailed, match="Nothing was changed"):
            require_acceptable(findings, "bootstrap")
    else:
        require_acceptable(findings, "bootstrap")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"version": "stable-2.11.5", "ha": True}, "policy/v1beta1"),
        (
            {
                "version": "stable-2.11.5",
                "jaeger": {"enabled": True},
                "registry": {"host": "r.example", "username": "u", "password": "p"},
            },
            "cannot use pull secrets",
        ),
    ],
)
def test_what_this_kubernetes_cannot_take_of_a_configuration(
    config: dict[str, Any], text: str
) -> None:
    findings = preflight(GOOD, MeshConfig.model_validate(config), ())
    assert [finding.id for finding in findings] == ["pl-combination"]
    assert text in findings[0].message


@pytest.mark.parametrize(
    ("group", "is_in"),
    [
        ("linkerd.io", True),
        ("policy.linkerd.io", True),
        ("workload.linkerd.io", True),
        ("of-a-later-release.linkerd.io", True),
        ("multicluster.linkerd.io", False),
        ("gateway.networking.k8s.io", False),
        ("notlinkerd.io", False),
    ],
)
def test_which_crds_come_with_linkerds_chart_of_crds(group: str, is_in: bool) -> None:
    assert is_in_crds_chart(group) == is_in


def test_the_administrator_of_a_fresh_cluster_may_do_everything(cluster: Cluster) -> None:
    snapshot = read_preflight(Mesh(cluster, CONFIG), ())
    assert snapshot.denied == ()
    assert snapshot.nodes == 4
    assert abs(snapshot.server_clock - snapshot.local_clock) < timedelta(seconds=10)


def test_an_identity_that_may_only_look_is_told_what_it_lacks(
    cluster: Cluster, namespace: str
) -> None:
    """A ServiceAccount with only the built-in role `view`, by its own token."""
    account = {"name": "viewer", "namespace": namespace}
    cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": namespace},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:aggregate-to-view",
        },
        "subjects": [{"kind": "ServiceAccount", **account}],
    }
    cluster.create(binding)
    try:
        viewer = as_account(cluster, namespace, "viewer")
        assert viewer.allowed("list", "pods")
        assert not viewer.allowed("create", "namespaces")
        asked = permissions(CONFIG)
        denied = denied_permissions(Mesh(viewer, CONFIG))
        assert set(denied) < set(asked)
        assert Permission("create", "namespaces") in denied
        assert Permission("list", "pods", "", "emojivoto") not in denied
    finally:
        cluster.delete("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", namespace)


def test_every_permission_is_documented() -> None:
    page = (ROOT / "docs/permissions.md").read_text()
    wide = MeshConfig(profile="demo", version="stable-2.14.10", jaeger={"enabled": True})
    for permission in permissions(wide):
        assert f"`{permission.resource}`" in page, permission


def test_cert_manager_is_not_given_an_issuer_that_the_chart_makes() -> None:
    charts_own = replace(GOOD, issuer_owner=helm("linkerd-control-plane", "linkerd"))
    config = MeshConfig.model_validate(
        {"issuer": "cert-manager", "trust_anchor": {"custody": "in-cluster"}}
    )
    [finding] = preflight(charts_own, config, CHARTS)
    assert (finding.id, finding.severity) == ("pl-owner", "error")
    assert "Helm release linkerd/linkerd-control-plane, and cert-manager would" in str(finding)
    assert preflight(charts_own, CONFIG, CHARTS) == []
