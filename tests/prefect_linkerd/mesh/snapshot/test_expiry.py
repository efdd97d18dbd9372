"""Which expiring certificates are announced, and the timeline of when they expire."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_linkerd.mesh.checks.options import ExpiryThresholds
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.pki.certificates import (
    create_trust_anchor,
    read_certificates,
    sign_issuer,
)
from prefect_linkerd.mesh.report.events import certificate_notices
from prefect_linkerd.mesh.report.timeline import expiry_timeline
from prefect_linkerd.mesh.snapshot.expiry import Expiry, Role, expiries, expiring
from prefect_linkerd.mesh.snapshot.mesh import Certificates, certificates_of
from prefect_linkerd.mesh.snapshot.webhooks import WebhookSigner, webhooks_of
from tests.support.advice import follows
from tests.support.certificates import DOMAIN, NOW
from tests.support.snapshots import empty_snapshot, expiry

PAIR = create_trust_anchor(DOMAIN, timedelta(days=365), NOW)
INFO = read_certificates(PAIR.certificate, "anchor")[0]
SELF_SIGNED = MeshConfig()
CERT_MANAGER = MeshConfig.model_validate(
    {"issuer": "cert-manager", "trust_anchor": {"custody": "in-cluster"}}
)


@given(st.floats(-30, 4000), st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_the_smallest_threshold_that_is_crossed_is_named(days: float, limits: list[int]) -> None:
    due = expiring([expiry(days)], SELF_SIGNED, limits)
    crossed = [limit for limit in limits if days < limit]
    assert [item.threshold for item in due] == ([min(crossed)] if crossed else [])


def test_what_cert_manager_renews_is_announced_only_once_it_should_have_been() -> None:
    hours = 1 / 24
    # The issuer is renewed 25 hours before it expires.
    assert not expiring([expiry(13 * hours, renewed_by="cert-manager")], CERT_MANAGER, [60])
    (due,) = expiring([expiry(12 * hours, renewed_by="cert-manager")], CERT_MANAGER, [60])
    assert due.remedy.startswith("cert-manager should have renewed it")


def test_what_cert_manager_wrote_is_renewed_by_it_whoever_configured_that() -> None:
    """As a plain Helm mesh may have it: no automation of ours may renew it instead."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "tap-k8s-tls",
            "namespace": "linkerd-viz",
            "annotations": {"cert-manager.io/certificate-name": "tap"},
        },
        "data": {"tls.crt": base64.b64encode(PAIR.certificate.encode()).decode()},
    }
    found = certificates_of(secret, "Secret/linkerd-viz/tap-k8s-tls")
    kept, made = found, replace(found, is_cert_managers=False)
    for certificates, renewed_by in ((kept, "cert-manager"), (made, "")):
        snapshot = empty_snapshot(secrets={"linkerd-viz/tap-k8s-tls": certificates})
        (only,) = expiries(snapshot)
        assert (only.role, only.name, only.renewed_by) == ("webhook", "tap", renewed_by)


# The CA of webhooks

INJECTOR = "linkerd/linkerd-proxy-injector-k8s-tls"
TAP = "linkerd-viz/tap-k8s-tls"
CA = create_trust_anchor(DOMAIN, timedelta(days=20), NOW)
LEAVES = [sign_issuer(CA, DOMAIN, timedelta(days=1), NOW).certificate for _ in range(2)]
FROM_STEP = {"certificate": "injector", "signing": "linkerd/webhook-issuer-tls"}


def signer(key: str, bundle: str, **more: str) -> WebhookSigner:
    place, name = key.split("/")
    webhook = next(each for _, each in webhooks_of(SELF_SIGNED) if each.secret == name)
    return WebhookSigner(place, webhook, bundle, **more)


def webhook(certificate: str, authority: str = "", *, by_cert_manager: bool = True) -> Certificates:
    keys = frozenset({"tls.crt", "tls.key"})
    return Certificates("", keys, certificate, authority, True, is_cert_managers=by_cert_manager)


def authorities(
    *found: tuple[Certificates, WebhookSigner],
) -> dict[str, Expiry]:
    snapshot = empty_snapshot(
        secrets={each.key: secret for secret, each in found},
        webhook_signers=tuple(each for _, each in found),
    )
    return {e.name: e for e in expiries(snapshot) if e.role == "webhook CA"}


def test_a_webhook_ca_that_a_person_made_is_announced_with_what_replaces_it() -> None:
    found = authorities(
        (webhook(LEAVES[0], CA.certificate), signer(INJECTOR, CA.certificate, **FROM_STEP))
    )
    (due,) = expiring(found.values(), SELF_SIGNED, [60])
    assert due.expiry.subject == "Secret/linkerd/webhook-issuer-tls"
    assert (round(due.expiry.days_left), due.expiry.renewed_by) == (20, "")
    assert "Put another CA into Secret/linkerd/webhook-issuer-tls" in due.remedy
    assert "cmctl renew --namespace linkerd injector." in due.remedy
    (notice,) = certificate_notices("prod", [due])
    assert (notice.payload["role"], notice.payload["remedy"]) == ("webhook CA", due.remedy)


def test_a_webhook_ca_that_cert_manager_keeps_is_left_to_it() -> None:
    kept = signer(INJECTOR, CA.certificate, **FROM_STEP, keeper="webhook-issuer")
    found = authorities((webhook(LEAVES[0], CA.certificate), kept))
    assert [e.renewed_by for e in found.values()] == ["cert-manager"]
    assert expiring(found.values(), SELF_SIGNED, [60]) == ()


def test_webhooks_of_a_namespace_share_their_ca_and_a_charts_have_none() -> None:
    second = "linkerd/linkerd-sp-validator-k8s-tls"
    found = authorities(
        (webhook(LEAVES[0], CA.certificate), signer(INJECTOR, CA.certificate, **FROM_STEP)),
        (
            webhook(LEAVES[1], CA.certificate),
            signer(second, CA.certificate, **{**FROM_STEP, "certificate": "validator"}),
        ),
        # genSelfSignedCert: the certificate is its own CA.
        (webhook(PAIR.certificate, by_cert_manager=False), signer(TAP, PAIR.certificate)),
    )
    assert found.keys() == {"webhook CA of linkerd"}
    assert "linkerd injector validator." in found["webhook CA of linkerd"].remedy


def test_a_former_ca_that_stays_in_the_ca_bundle_counts_no_more() -> None:
    """cert-manager's cainjector keeps it there until it expires."""
    renewed = webhook(NEW_LEAF, NEW_CA.certificate)
    found = authorities((renewed, signer(INJECTOR, CA.certificate + NEW_CA.certificate)))
    assert [round(e.days_left) for e in found.values()] == [400]


NEW_CA = create_trust_anchor(DOMAIN, timedelta(days=400), NOW)
NEW_LEAF = sign_issuer(NEW_CA, DOMAIN, timedelta(days=1), NOW).certificate


@follows(
    "Put another CA into Secret/",
    "Renew the CA and what it signed where they come from, such as the release's values ",
    "Renew the CA that the issuer of Certificate ",
)
def test_a_new_webhook_ca_is_enough() -> None:
    for secret, renewed, more in (
        (webhook(LEAVES[0], CA.certificate), webhook(NEW_LEAF, NEW_CA.certificate), FROM_STEP),
        (
            webhook(LEAVES[0] + CA.certificate, by_cert_manager=False),
            webhook(NEW_LEAF + NEW_CA.certificate, by_cert_manager=False),
            {},
        ),
        (
            webhook(LEAVES[0], CA.certificate),
            webhook(NEW_LEAF, NEW_CA.certificate),
            {"certificate": "t"},
        ),
    ):
        found = [
            expiring(authorities((each, signer(INJECTOR, "", **more))).values(), SELF_SIGNED, [60])
            for each in (secret, renewed)
        ]
        assert [len(due) for due in found] == [1, 0]


@pytest.mark.parametrize(
    ("secret", "bundle", "more", "remedy"),
    [
        # Only the API server has it, as when the chart's value caBundle sets it.
        (webhook(LEAVES[0], by_cert_manager=False), CA.certificate, {}, "caBundle of tap"),
        # An intermediate that follows the certificate.
        (webhook(LEAVES[0] + CA.certificate, by_cert_manager=False), "", {}, "caBundle of tap"),
        # An issuer whose CA is not in this cluster, such as Vault.
        (
            webhook(LEAVES[0], CA.certificate),
            "",
            {"certificate": "t"},
            "the issuer of Certificate t",
        ),
    ],
    ids=["in caBundle alone", "an intermediate", "an issuer elsewhere"],
)
def test_every_ca_of_a_webhook_counts(
    secret: Certificates, bundle: str, more: dict[str, str], remedy: str
) -> None:
    (only,) = authorities((secret, signer(TAP, bundle, **more))).values()
    assert only.info.fingerprint == read_certificates(CA.certificate, "ca")[0].fingerprint
    assert remedy in only.remedy


@pytest.mark.parametrize(
    ("role", "flow"),
    [
        ("trust anchor", "rotate_anchor"),
        ("issuer", "rotate_issuer"),
        ("webhook", "rotate_webhooks"),
    ],
)
def test_the_remedy_names_the_flow(role: Role, flow: str) -> None:
    (due,) = expiring([expiry(3, role)], SELF_SIGNED, [60, 7])
    assert flow in due.remedy


def test_an_event_has_what_an_automation_chooses_by() -> None:
    due = expiring([expiry(5.04, "trust anchor"), expiry(-1, "issuer")], SELF_SIGNED, [60, 30, 7])
    first, second = certificate_notices("prod", due)
    assert first.event == second.event == "linkerd.certificate.expiring"
    assert first.resource["prefect.resource.id"] == "linkerd.mesh.prod"
    assert first.payload["role"] == "trust anchor"
    assert (first.payload["days_left"], first.payload["threshold_days"]) == (5.04, 7)
    assert not first.payload["is_expired"]
    assert second.payload["is_expired"]


@pytest.mark.parametrize("days", [[], [0], [30, -1]])
def test_thresholds_that_mean_nothing_are_refused(days: list[int]) -> None:
    with pytest.raises(ValidationError, match="at least one threshold, each of one day or more"):
        ExpiryThresholds(days=days)


@given(st.lists(st.floats(-400, 40000, allow_nan=False), max_size=12))
def test_the_timeline_is_a_picture_with_a_bar_for_each(days: list[float]) -> None:
    picture = expiry_timeline([expiry(left) for left in days], "Mesh <a> & b")
    root = ElementTree.fromstring(picture)  # noqa: S314 it is our own
    width = float(root.attrib["viewBox"].split()[2])
    bars = [el for el in root.iter() if el.tag.endswith("rect")][1:]
    assert len(bars) == len(days)
    for bar in bars:
        assert float(bar.attrib["width"]) > 0
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width
    lengths = [float(bar.attrib["width"]) for bar in bars]
    # The longer a certificate lives, the longer its bar.
    assert sorted(lengths) == [w for _, w in sorted(zip(days, lengths, strict=True))]
    ended = sum(left <= 0 for left in days)
    assert len(re.findall(">expired<", picture)) == ended
