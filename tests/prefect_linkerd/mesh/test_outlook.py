"""Which flows `adopt` says would work on a mesh, and why the others would not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_linkerd.mesh.adoption import Adoption, AdoptionSnapshot, describe
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import NotReady, OwnershipConflict
from prefect_linkerd.mesh.helm.installed import MeshReleases
from prefect_linkerd.mesh.helm.ownership import Owner
from prefect_linkerd.mesh.helm.records import Release, Revision
from prefect_linkerd.mesh.identity.certificate_anchor import CertificateAnchor, Renewals
from prefect_linkerd.mesh.identity.trust_anchor import TLS, TlsSecret
from prefect_linkerd.mesh.pki.certificates import (
    KeyPair,
    create_trust_anchor,
    read_certificates,
    sign_issuer,
)

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
ANCHOR, OTHER = (create_trust_anchor("cluster.local", YEAR, NOW) for _ in range(2))
ISSUER = sign_issuer(ANCHOR, "cluster.local", YEAR / 2, NOW)
RELEASE = Release(
    *("linkerd-control-plane", "linkerd", "linkerd-control-plane", "1", "stable-2.14.10", 1),
    status="deployed",
    updated=NOW,
)
HELM = Owner("Helm", "Helm release linkerd/linkerd-control-plane", RELEASE.ref)
KUBECTL = Owner("kubectl", "a kubectl user")
SEALED = Owner("controller", "SealedSecret/linkerd/linkerd-trust-anchor")
CERTIFICATE = Owner("cert-manager", "cert-manager's Certificate/linkerd/linkerd-identity-issuer")


def secret(pair: KeyPair, owner: Owner) -> TlsSecret:
    return TlsSecret(TLS, pair.certificate, pair.private_key, "", "", TLS, owner)


def described(**more: Any) -> Adoption:
    """A plain Helm mesh whose issuer was made with kubectl, with `more` changes."""
    snapshot: dict[str, Any] = {
        "base": MeshConfig(version="stable-2.14.10"),
        "linkerd": "linkerd",
        "running": "stable-2.14.10",
        "extensions": {},
        "mesh": MeshReleases({"linkerd-control-plane": RELEASE}, {"linkerd-control-plane": HELM}),
        "revisions": {},
        "roots": ANCHOR.certificate,
        "roots_owner": HELM,
        "bundle_owner": None,
        "issuer": secret(ISSUER, KUBECTL),
        "anchor_in": {},
        "issuer_certificate": None,
        "signing": None,
        "anchor": None,
        "cert_manager_in": "cert-manager",
        "certificates": (),
        "dependencies": (),
        "served": frozenset(),
    }
    return describe(AdoptionSnapshot(**(snapshot | more)))


def signed(kind: str = "Issuer", **more: Any) -> Adoption:
    """The same mesh, but cert-manager signs the issuer."""
    certificate = {
        "metadata": {"name": "linkerd-identity-issuer", "namespace": "linkerd"},
        "spec": {
            "secretName": "linkerd-identity-issuer",
            "issuerRef": {"name": "linkerd", "kind": kind},
        },
    }
    issuer = secret(ISSUER, CERTIFICATE)
    return described(**{"issuer_certificate": certificate, "issuer": issuer, **more})


def why_not(found: Adoption) -> dict[str, str]:
    """The reasons why flows do not work, by flow."""
    return {each.flow: "; ".join(each.reasons) for each in found.outlook if not each.works}


KEY_NOT_PROVIDED = {"rotate_issuer": "the private key of the trust anchor is needed"}


@pytest.mark.parametrize(
    ("anchor_in", "refused", "custody"),
    [
        ({}, KEY_NOT_PROVIDED, None),
        ({"linkerd": secret(ANCHOR, KUBECTL)}, {}, "in-cluster"),
        # Keys that sign no issuer.
        ({"linkerd": secret(OTHER, KUBECTL)}, KEY_NOT_PROVIDED, None),
        ({"cert-manager": secret(ANCHOR, KUBECTL)}, KEY_NOT_PROVIDED, None),
        (
            {"linkerd": secret(ANCHOR, SEALED)},
            {"rotate_anchor": f"the trust anchor belongs to {SEALED}: replace it there"},
            "in-cluster",
        ),
    ],
)
def test_the_anchors_key_is_asked_for_where_the_mesh_has_it_nowhere(
    anchor_in: dict[str, TlsSecret], refused: dict[str, str], custody: str | None
) -> None:
    found = described(anchor_in=anchor_in)
    assert why_not(found) == refused
    assert bool(found.missing) == (refused == KEY_NOT_PROVIDED)
    assert found.config.get("trust_anchor", {}).get("custody") == custody


@pytest.mark.parametrize(
    ("kind", "place"), [("Issuer", "linkerd"), ("ClusterIssuer", "cert-manager")]
)
def test_cert_manager_has_the_key_that_it_signs_with(kind: str, place: str) -> None:
    kept = {place: secret(ANCHOR, KUBECTL)}
    found = signed(kind, signing=(place, "linkerd-trust-anchor"), anchor_in=kept)
    assert (why_not(found), found.missing) == ({}, ())
    assert found.config["cert_manager"]["install"] is False


@pytest.mark.parametrize(
    ("signing", "reason"),
    [
        (
            None,
            "Issuer linkerd does not sign with a Secret of this cluster: rotate the anchor where "
            "it is kept",
        ),
        (
            ("linkerd", "root"),
            "Issuer linkerd signs with Secret/linkerd/root, but these flows keep an anchor in "
            "Secret/linkerd/linkerd-trust-anchor: rename it, or let a cert-manager Certificate "
            "own it",
        ),
    ],
)
def test_an_anchor_that_these_flows_do_not_keep_is_not_rotated(
    signing: tuple[str, str] | None, reason: str
) -> None:
    assert why_not(signed(signing=signing)) == {
        "rotate_issuer": reason,
        "rotate_anchor": reason,
    }


def test_what_a_certificates_anchor_lacks_is_said() -> None:
    lack = NotReady("Secret/linkerd/root", expected="an anchor", found="nothing", remedy="Wait.")
    found = signed(signing=("linkerd", "root"), anchor=lack)
    assert why_not(found) == {"rotate_issuer": str(lack), "rotate_anchor": str(lack)}


FLUX = Owner("Flux", "Flux's HelmRelease/flux-system/linkerd")


def certificate_anchor(**more: Any) -> CertificateAnchor:
    keeps = Renewals("cert-manager", "root", due=None, every=None, is_issuing=False)
    whole: dict[str, Any] = {
        "secret": "root",
        "current": read_certificates(ANCHOR.certificate, "root")[0],
        "previous": None,
        "fixed": frozenset(),
        "has_others": False,
        "anchor": keeps,
        "issuer": keeps,
        "known": ANCHOR.certificate,
        "read_at": NOW,
    }
    return CertificateAnchor(**(whole | more))


def test_what_cert_manager_makes_is_renewed_whoever_owns_the_release() -> None:
    driven = MeshReleases({"linkerd-control-plane": RELEASE}, {"linkerd-control-plane": FLUX})
    found = signed(mesh=driven, signing=("cert-manager", "root"), anchor=certificate_anchor())
    assert set(why_not(found)) == {"bootstrap", "upgrade", "rotate_webhooks"}
    lack = OwnershipConflict("Bundle", expected="two sources", found="one", remedy="Add one.")
    found = signed(anchor=certificate_anchor(obstacle=lack))
    assert why_not(found) == {"rotate_anchor": str(lack)}


BUNDLE = Owner("trust-manager", "trust-manager's Bundle/linkerd-identity-trust-roots")
KUSTOMIZATION = Owner("Flux", "Flux's Kustomization/flux-system/pki")


@pytest.mark.parametrize(
    ("roots", "bundle", "driven"),
    [
        (KUBECTL, None, None),
        (KUSTOMIZATION, None, KUSTOMIZATION),
        (BUNDLE, KUBECTL, None),
        (BUNDLE, KUSTOMIZATION, KUSTOMIZATION),
    ],
)
def test_a_trust_bundle_that_something_drives_is_not_rotated(
    roots: Owner, bundle: Owner | None, driven: Owner | None
) -> None:
    external = {"identity": {"externalCA": True}}
    parts = ("linkerd-control-plane", "linkerd", 1, "deployed", "linkerd-control-plane", "1")
    revision = Revision(*parts, "stable-2.14.10", external, {}, (), {})
    found = described(
        revisions={"linkerd-control-plane": revision},
        roots_owner=roots,
        bundle_owner=bundle,
        anchor_in={"linkerd": secret(ANCHOR, KUBECTL)},
    )
    text = f"the trust bundle belongs to {driven}: replace the anchor there"
    assert why_not(found) == ({"rotate_anchor": text} if driven else {})


def test_an_anchor_that_cert_manager_renewed_by_itself_is_rotated_first() -> None:
    found = signed(anchor=certificate_anchor(), roots=OTHER.certificate)
    (refused,) = why_not(found).items()
    assert refused[0] == "rotate_issuer"
    assert refused[1].endswith("run rotate_anchor, which takes over")


def test_an_issuer_of_another_kind_than_cert_managers_own_can_be_configured() -> None:
    found = signed("AWSPCAClusterIssuer")
    assert "does not sign with a Secret" in why_not(found)["rotate_anchor"]
    assert MeshConfig.model_validate(found.config).issuer == "cert-manager"


SERVERS = {
    "proxyInjector": "linkerd-proxy-injector",
    "profileValidator": "linkerd-sp-validator",
    "policyValidator": "linkerd-policy-validator",
}


def keeping(name: str, **labels: str) -> dict[str, Any]:
    """A Certificate for a webhook's Secret, under another name."""
    metadata = {"name": f"my-{name}", "namespace": "linkerd", "labels": labels}
    return {"metadata": metadata, "spec": {"secretName": f"{name}-k8s-tls"}}


@pytest.mark.parametrize(
    "trusts",
    [
        # The ways that Linkerd's documentation has given over the years to set the trusted CA.
        {"injectCaFrom": "linkerd/my-linkerd-proxy-injector"},
        {"injectCaFromSecret": f"linkerd/{SERVERS['proxyInjector']}-k8s-tls"},
        {"caBundle": ANCHOR.certificate},
    ],
)
def test_webhook_certificates_that_cert_manager_makes_stay_their_owners(
    trusts: dict[str, str],
) -> None:
    values = {name: {"externalSecret": True, **trusts} for name in SERVERS}
    parts = ("linkerd-control-plane", "linkerd", 1, "deployed", "linkerd-control-plane", "1")
    mesh = MeshReleases(
        {"linkerd-control-plane": replace(RELEASE, values=values)}, {"linkerd-control-plane": HELM}
    )
    more: dict[str, Any] = {
        "mesh": mesh,
        "revisions": {
            "linkerd-control-plane": Revision(*parts, "stable-2.14.10", values, {}, (), {})
        },
        "certificates": tuple(map(keeping, SERVERS.values())),
    }
    for found in (described(**more), signed(signing=("linkerd", "linkerd-trust-anchor"), **more)):
        assert found.config["values"]["inline"] == values
        assert not found.config.get("cert_manager", {}).get("webhook_certificates")
        reason = why_not(found)["rotate_webhooks"]
        for name in SERVERS.values():
            assert f"cert-manager renews it by Certificate my-{name}" in reason
        assert {"bootstrap", "upgrade"}.isdisjoint(why_not(found))


def test_webhook_certificates_that_these_flows_keep_are_kept() -> None:
    label = {"app.kubernetes.io/managed-by": "prefect-linkerd"}
    ours = tuple(keeping(name, **label) for name in SERVERS.values())
    config = signed(signing=("linkerd", "linkerd-trust-anchor"), certificates=ours).config
    assert config["cert_manager"].get("webhook_certificates", True)
