"""What the plan of an uninstall says, decided without a cluster, and following its advice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.installed import MeshReleases, Part
from prefect_linkerd.mesh.helm.ownership import OURS, Owner
from prefect_linkerd.mesh.helm.records import Release, ReleaseRef
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Object
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.records.upgrade import UpgradeRecord
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.mesh.uninstall.plan import (
    Member,
    UninstallPlan,
    UninstallSnapshot,
    plan_uninstall,
    uninstall_markdown,
)
from tests.support.advice import follows, follows_each
from tests.support.certificates import NOW

PLANE, CRDS, VIZ = "linkerd-control-plane", "linkerd-crds", "linkerd-viz"
FLUX = Owner("Flux", "Flux's HelmRelease/flux/linkerd", ReleaseRef(PLANE, "linkerd"))
KEY = "Secret/linkerd/linkerd-trust-anchor"


def release(name: str, namespace: str = "linkerd", **more: Any) -> Release:
    return Release(name, namespace, name, "1", "edge-26.8.3", 1, "deployed", NOW, **more)


def obj(kind: str, name: str, namespace: str | None = "linkerd", **metadata: Any) -> Object:
    placed = {"namespace": namespace} if namespace else {}
    given = {"labels": MADE_HERE} | metadata
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **placed, **given}}


def member(kind: str, name: str, owner: Owner | None = None, **more: Any) -> Member:
    of = owner or Owner("Helm", "Helm release linkerd/x", ReleaseRef(PLANE, "linkerd"))
    return Member(f"{kind}/{name}", kind, name, of, **more)


INSTALLED = UninstallSnapshot(
    MeshConfig(),
    MeshReleases(
        {PLANE: release(PLANE), CRDS: release(CRDS), VIZ: release(VIZ, "linkerd-viz")},
        dict.fromkeys((PLANE, CRDS, VIZ), OURS),
    ),
    {
        ReleaseRef(PLANE, "linkerd"): (member("Deployment", "linkerd-destination"),),
        ReleaseRef(CRDS, "linkerd"): (
            member(
                "CustomResourceDefinition",
                "servers.policy.linkerd.io",
                Owner("Helm", "x", ReleaseRef(CRDS, "linkerd")),
            ),
        ),
    },
    own=(obj("Secret", "linkerd-identity-issuer"),),
    records=(obj("ConfigMap", "prefect-linkerd-rotation"),),
    namespaces={
        name: obj("Namespace", name, None) for name in ("linkerd-viz", "cert-manager", "linkerd")
    },
    key="file anchor.key",
)
ALL = UninstallOptions(crds=True, namespaces=True, dependencies=["cert-manager"])


def goes(plan: UninstallPlan) -> list[str]:
    return [gone.subject for gone in plan.goes]


def stays(plan: UninstallPlan) -> dict[str, str]:
    return {each.subject: each.reason for each in plan.stays}


def ids(plan: UninstallPlan) -> list[str]:
    return [finding.id for finding in plan.findings]


def test_the_order_and_what_has_to_be_asked_for() -> None:
    plan = plan_uninstall(INSTALLED, UninstallOptions())
    assert goes(plan) == [
        "Helm release linkerd-viz/linkerd-viz",
        "Helm release linkerd/linkerd-control-plane",
        "Secret/linkerd/linkerd-identity-issuer",
        "ConfigMap/linkerd/prefect-linkerd-rotation",
    ]
    assert "asked for" in stays(plan)["Helm release linkerd/linkerd-crds"]
    assert "file anchor.key" in uninstall_markdown(plan)
    asked = goes(plan_uninstall(INSTALLED, ALL))
    assert asked.index("Helm release linkerd/linkerd-crds") == 3
    # The control plane's namespace goes last because it holds the lease.
    assert asked[-2:] == ["Namespace/cert-manager", "Namespace/linkerd"]


@pytest.mark.parametrize(
    ("changed", "subject", "reason"),
    [
        ({"keys": (KEY,)}, "Namespace/linkerd", "the trust anchor's key is in it"),
        ({"content": {"linkerd": ("Service/linkerd/x",)}}, "Namespace/linkerd", "others made"),
        (
            {"namespaces": {"linkerd": obj("Namespace", "linkerd", None, labels={})}},
            "Namespace/linkerd",
            "it belongs to",
        ),
        (
            {"dependencies": (release("cert-manager", "cert-manager"),)},
            "Helm release cert-manager/cert-manager",
            "it belongs to",
        ),
        (
            {"own": (obj("Secret", "linkerd-identity-issuer", labels={}),)},
            "Secret/linkerd/linkerd-identity-issuer",
            "it belongs to",
        ),
    ],
)
def test_what_stays_though_everything_is_asked_for(
    changed: dict[str, Any], subject: str, reason: str
) -> None:
    plan = plan_uninstall(replace(INSTALLED, **changed), ALL)
    assert reason in stays(plan)[subject]
    assert subject not in goes(plan)


@pytest.mark.parametrize(
    ("found", "is_kept"),
    [
        (member("Service", "linkerd-identity"), False),
        (member("Service", "linkerd-identity", FLUX), True),
        (member("Namespace", "linkerd"), True),
        (member("CustomResourceDefinition", "servers.policy.linkerd.io"), True),
        (member("Secret", "kept", is_kept=True), True),
        (member("Role", "moved", Owner("Helm", "x", ReleaseRef("other", "linkerd"))), True),
        (Member("Role/gone", "Role", "gone", None), False),
    ],
)
def test_what_helm_must_not_delete_with_a_release(found: Member, is_kept: bool) -> None:
    members = {ReleaseRef(PLANE, "linkerd"): (found,)}
    plan = plan_uninstall(replace(INSTALLED, members=members), UninstallOptions())
    [plane] = [gone for gone in plan.goes if gone.name == PLANE]
    assert (plane.keeps == ((found.kind, found.name),)) == is_kept
    assert (found.subject in stays(plan)) == is_kept


ROTATION = RotationRecord("new", "old", "", "spread", "2026-05-04")
UPGRADE = UpgradeRecord(source="edge-25.4.4", target="edge-26.8.3", started=NOW, releases=())
MANAGER = release("cert-manager", "cert-manager", labels=MADE_HERE)
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    # The situation, the advice, and the id to accept it by.
    "injected": (
        {"injected": {"apps": ("Deployment/apps/web",)}},
        "Remove annotation linkerd.io/inject from them and their namespaces and restart them, or",
        "injected",
    ),
    "a rotation": (
        {"rotation": ROTATION},
        "Finish it with rotate_anchor, or accept this.",
        "unfinished",
    ),
    "an upgrade": ({"upgrade": UPGRADE}, "Finish it with upgrade, or accept this.", "unfinished"),
    "custom resources": (
        {"resources": {"servers.policy.linkerd.io": ("Server/apps/web",)}},
        "Back up those that you need, or accept this.",
        "custom-resources",
    ),
    "a dependency": (
        {
            "dependencies": (MANAGER,),
            "users": {"cert-manager": ("Certificate/apps/web",)},
        },
        "Leave it out of the dependencies, or accept this.",
        "dependency-used",
    ),
}


@follows_each(CASES)
def test_a_finding_is_fixed_or_accepted(case: str) -> None:
    changed, words, accepted = CASES[case]
    snapshot = replace(INSTALLED, **changed)
    plan = plan_uninstall(snapshot, ALL)
    (finding,) = plan.findings
    assert (finding.id, finding.severity) == (accepted, "error")
    assert words in finding.remedy
    agreed = plan_uninstall(snapshot, ALL, frozenset({accepted}))
    assert [f.severity for f in agreed.findings] == ["warning"]
    assert plan_uninstall(INSTALLED, ALL).findings == ()


@follows("Uninstall it there, then run uninstall again for what bootstrap made.")
def test_a_control_plane_of_somebody_else_stays_with_all_that_it_needs() -> None:
    owners: dict[Part, Owner] = {PLANE: FLUX, CRDS: OURS}
    releases: dict[Part, Release] = {PLANE: release(PLANE), CRDS: release(CRDS)}
    theirs = replace(INSTALLED, installed=MeshReleases(releases, owners))
    plan = plan_uninstall(theirs, ALL, frozenset({"driven"}))
    assert ids(plan) == ["driven"]
    assert plan.findings[0].severity == "error"
    assert "Secret/linkerd/linkerd-identity-issuer" not in goes(plan)
    assert not [each for each in goes(plan) if each.startswith("Helm release")]
    # As advised: once it is uninstalled there, the rest can go.
    gone = replace(INSTALLED, installed=MeshReleases({CRDS: release(CRDS)}, {CRDS: OURS}))
    again = plan_uninstall(gone, ALL)
    assert ids(again) == []
    assert "Secret/linkerd/linkerd-identity-issuer" in goes(again)


def test_nothing_left_is_done() -> None:
    empty = UninstallSnapshot(MeshConfig(), MeshReleases({}, {}), {})
    plan = plan_uninstall(empty, UninstallOptions())
    assert plan.is_done
    assert "Nothing is left to uninstall." in uninstall_markdown(plan)
