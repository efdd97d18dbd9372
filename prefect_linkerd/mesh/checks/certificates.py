"""How long the mesh's certificates have left, and whether cert-manager renews those it manages.

Linkerd's own checks warn a fixed 60 days ahead. These know a certificate's lifetime, who renews it,
and what its expiry means for the proxies' own certificates.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime, timedelta

import durationpy

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.renewal import overdue
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.identity.certificate_anchor import (
    AnchorOwner,
    anchors_in,
    issued_by,
    lacks,
    renewals,
)
from prefect_linkerd.mesh.identity.issuer import ready_condition
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TRUST_ROOTS
from prefect_linkerd.mesh.kubernetes.client import Object, name_of
from prefect_linkerd.mesh.pki.certificates import CertificateInfo, read_certificates, signed_by
from prefect_linkerd.mesh.records.rotation import RECORD, record_of
from prefect_linkerd.mesh.snapshot.expiry import Expiry, Role, expiries
from prefect_linkerd.mesh.snapshot.mesh import Certificates, Snapshot

SOON = timedelta(days=30)
"""How long a certificate should have left, or a third of its lifetime if that is shorter."""

TAKE_OVER = "Run rotate_anchor, which takes over from there."

ANCHOR_OVERDUE = "pl-anchor-overdue"
"""The check whose failure makes an automation run the last round of a gentle rotation."""

certificates = Category[Snapshot]("pl-certificates", "beyond")


@certificates.check("pl-trust-bundle", "the trust bundle holds the anchor that signed the issuer")
def trust_bundle(snapshot: Snapshot) -> Problems:
    namespace = snapshot.config.namespaces.linkerd
    where = f"ConfigMap/{namespace}/{TRUST_ROOTS}"
    subject = f"Secret/{namespace}/{ISSUER_SECRET}"
    issuer = snapshot.secrets.get(f"{namespace}/{ISSUER_SECRET}")
    if issuer is None or not issuer.certificate:
        raise Skip("there is no issuer")
    try:
        chain = read_certificates(issuer.certificate, subject)
    except MeshError as error:
        raise Skip(f"the issuer cannot be read: {error.found}") from None
    try:
        trusted = read_certificates(snapshot.trust_bundle, where) if snapshot.trust_bundle else []
    except MeshError as error:
        text = f"it cannot be read: expected {error.expected}, found {error.found}"
        yield Problem(where, f"{text}, so identity does not start", error.remedy)
        return
    # Identity verifies its issuer against this bundle. If that fails it does not start, or keeps
    # the old issuer. Source: linkerd2 `pkg/identity/service.go` (loadCredentials).
    if trusted and signed_by(issuer.certificate, snapshot.trust_bundle, subject) is not None:
        return
    held = ", ".join(map(_anchor_name, trusted)) or "no anchor"
    text = (
        f"it holds {held}, and none of them signed the issuer ({_anchor_name(chain[0])}, signed by "
        f"{chain[-1].issuer}): the identity service refuses it, and no proxy gets a certificate"
    )
    is_certificates = snapshot.anchor_owner is not None
    yield Problem(where, text, TAKE_OVER if is_certificates else _fix_bundle(issuer, subject))


def _fix_bundle(issuer: Certificates, subject: str) -> str:
    try:
        signer = signed_by(issuer.certificate, issuer.authority, subject)
    except MeshError:
        signer = None
    if signer is None:
        return (
            "Add the anchor that signed it to the bundle, or run rotate_anchor with recover, which "
            "gives the mesh a new anchor and issuer, with downtime."
        )
    return (
        f"Add {_anchor_name(signer)}, which is ca.crt of {subject}, to the bundle where that is "
        "declared: the value identityTrustAnchorsPEM of the control plane's release, or the "
        "trust-manager Bundle. Then restart Deployment/linkerd-identity."
    )


def _anchor_name(info: CertificateInfo) -> str:
    return f"{info.common_name or info.subject or 'one without a name'} ({info.fingerprint[:12]})"


@certificates.check(
    "pl-anchor-days-left", "trust anchors have 30 days or a third of their lifetime left", "warning"
)
def anchor_days_left(snapshot: Snapshot) -> Problems:
    if not snapshot.trust_bundle:
        raise Skip("there is no trust bundle")
    remedy = "Run rotate_anchor, which also removes anchors that are no longer used."
    yield from _ending(snapshot, "trust anchor", {}, remedy)


@certificates.check(
    "pl-issuer-days-left", "the issuer has 30 days or a third of its lifetime left", "warning"
)
def issuer_days_left(snapshot: Snapshot) -> Problems:
    remedy = "Run rotate_issuer."
    yield from _ending(snapshot, "issuer", _kept(snapshot), remedy)


@certificates.check(
    "pl-webhook-days-left",
    "webhook certificates have 30 days or a third of their lifetime left",
    "warning",
)
def webhook_days_left(snapshot: Snapshot) -> Problems:
    remedy = (
        "Run rotate_webhooks, or let cert-manager keep it: "
        "https://linkerd.io/2/tasks/automatically-rotating-webhook-tls-credentials/"
    )
    yield from _ending(snapshot, "webhook", _kept(snapshot), remedy)


@certificates.check(
    "pl-webhook-ca-days-left",
    "CAs of webhook certificates have 30 days or a third of their lifetime left",
    "warning",
)
def webhook_ca_days_left(snapshot: Snapshot) -> Problems:
    _ = snapshot.webhook_signers
    kept = {e.subject for e in expiries(snapshot) if e.role == "webhook CA" and e.renewed_by}
    yield from _ending(snapshot, "webhook CA", {k.removeprefix("Secret/") for k in kept})


@certificates.check(
    "pl-anchor-trusted", "every proxy trusts the anchor that cert-manager signs the issuer with"
)
def anchor_trusted(snapshot: Snapshot) -> Problems:
    owner = snapshot.anchor_owner
    if owner is None:
        raise Skip("no Certificate of cert-manager owns the trust anchor")
    subject = name_of(owner.certificate)
    anchor = issued_by(owner.certificate, snapshot.trust_bundle)
    if anchor is None:
        text = "cert-manager renewed it, and the trust bundle does not have the new anchor"
        yield Problem(subject, f"{text}; {_leaves(snapshot, owner, None)}", TAKE_OVER)
        return
    without = [
        pod.subject
        for pod in snapshot.meshed
        if pod.proxy is not None and lacks(anchor, pod.proxy.trust_bundle, pod.started)
    ]
    if without:
        named = ", ".join(without[:3]) + (", …" if len(without) > 3 else "")
        text = f"cert-manager renewed it, and {len(without)} proxies do not trust it: {named}"
        yield Problem(subject, f"{text}; {_leaves(snapshot, owner, anchor)}", TAKE_OVER)


def _leaves(snapshot: Snapshot, owner: AnchorOwner, anchor: CertificateInfo | None) -> str:
    """When proxies get certificates under the anchor that cert-manager created on renewal."""
    namespace = snapshot.config.namespaces.linkerd
    issuer = snapshot.secrets.get(f"{namespace}/{ISSUER_SECRET}")
    try:
        is_signed = (
            anchor is not None
            and issuer is not None
            and signed_by(issuer.certificate, anchor.pem, ISSUER_SECRET) is not None
        )
    except MeshError:
        is_signed = False
    if is_signed:
        return "it signed the issuer: proxies get certificates under it once identity restarts"
    due = renewals(owner.issuer).due
    if due is None:
        return f"proxies get certificates under it as soon as {name_of(owner.issuer)} is renewed"
    left = max(due - snapshot.now, timedelta())
    return (
        f"proxies get certificates under it in {_hours(left)}, when cert-manager renews "
        f"{name_of(owner.issuer)} ({_moment(due)})"
    )


@certificates.check("pl-anchor-dropped", "no proxy trusts an anchor that was dropped", "warning")
def anchor_dropped(snapshot: Snapshot) -> Problems:
    namespace = snapshot.config.namespaces.linkerd
    where = f"ConfigMap/{namespace}/{TRUST_ROOTS}"
    record = record_of(snapshot.config_maps.get(f"{namespace}/{RECORD}"))
    if record is not None and record.is_open:
        raise Skip("a rotation of the trust anchor is unfinished")
    trusted = anchors_in(snapshot.trust_bundle)
    if not trusted:
        raise Skip("there is no trust bundle that can be read")
    if record is None or not record.dropped or record.goal not in trusted:
        raise Skip("no rotation of the trust anchor has dropped one")
    left = _still_trusting(snapshot, trusted)
    if not left:
        return
    named = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
    text = f"{len(left)} proxies still trust an anchor that it no longer has"
    text += f", dropped on {_moment(datetime.fromisoformat(record.dropped))}"
    remedy = "They drop it when they restart; rotate_anchor with the action drop restarts them."
    if record.drop_by:
        text += f"; they may keep it until {_moment(datetime.fromisoformat(record.drop_by))}"
    yield Problem(where, f"{text}: {named}", remedy)


@certificates.check(ANCHOR_OVERDUE, "proxies have dropped the old anchor by its deadline")
def anchor_overdue(snapshot: Snapshot) -> Problems:
    namespace = snapshot.config.namespaces.linkerd
    record = record_of(snapshot.config_maps.get(f"{namespace}/{RECORD}"))
    if record is None or record.is_open or not record.drop_by:
        raise Skip("no gentle rotation has set a deadline")
    until, trusted = datetime.fromisoformat(record.drop_by), anchors_in(snapshot.trust_bundle)
    if snapshot.now < until or record.goal not in trusted:
        return
    left = _still_trusting(snapshot, trusted)
    if left:
        text = f"{len(left)} proxies still trust a dropped anchor, after {_moment(until)}"
        remedy = "Run rotate_anchor with the action drop, which restarts them."
        yield Problem(f"ConfigMap/{namespace}/{TRUST_ROOTS}", text, remedy)


def _still_trusting(snapshot: Snapshot, trusted: frozenset[str]) -> list[str]:
    """The pods whose proxies trust an anchor that the bundle does not have."""
    return [
        pod.subject
        for pod in snapshot.meshed
        if pod.proxy is not None and anchors_in(pod.proxy.trust_bundle) - trusted
    ]


@certificates.check("pl-certificate-ready", "cert-manager's Certificates are Ready")
def certificate_ready(snapshot: Snapshot) -> Problems:
    for certificate in snapshot.certificates:
        is_ready, message = ready_condition(certificate)
        if not is_ready:
            yield Problem(
                name_of(certificate),
                f"it is not Ready: {message}",
                "Look at its CertificateRequest with `kubectl describe` and at cert-manager's log.",
            )


@certificates.check("pl-certificate-renewal", "cert-manager renews certificates in time", "warning")
def certificate_renewal(snapshot: Snapshot) -> Problems:
    for certificate in snapshot.certificates:
        if due := overdue(certificate, snapshot.now):
            yield Problem(
                name_of(certificate),
                f"its renewal was due on {_moment(due)} and has not happened",
                "Check that cert-manager runs, and look at its log.",
            )


@certificates.check(
    "pl-leaf-lifetime", "proxies get certificates of their full lifetime", "warning"
)
def leaf_lifetime(snapshot: Snapshot) -> Problems:
    namespace = snapshot.config.namespaces.linkerd
    issuer = snapshot.secrets.get(f"{namespace}/{ISSUER_SECRET}")
    if issuer is None or not issuer.certificate or not snapshot.trust_bundle:
        raise Skip("there is no issuer or no trust bundle")
    subject = f"Secret/{namespace}/{ISSUER_SECRET}"
    try:
        chain = read_certificates(issuer.certificate, subject)
        anchor = signed_by(issuer.certificate, snapshot.trust_bundle, subject)
    except MeshError as error:
        raise Skip(str(error)) from None
    # The identity service lets no leaf outlive any certificate of its chain, so a proxy renews
    # before one expires. Source: linkerd2 `pkg/tls/ca.go` (createTemplate).
    ends = [(info.not_after, subject, "the issuer") for info in chain]
    if anchor is not None:
        ends.append((anchor.not_after, f"ConfigMap/{namespace}/{TRUST_ROOTS}", "its trust anchor"))
    end, where, what = min(ends)
    full, left = issuance_lifetime(snapshot), end - snapshot.now
    if left < full:
        yield Problem(
            where,
            f"a proxy that asks now gets {_hours(max(left, timedelta()))} instead of "
            f"{_hours(full)}, as {what} expires on {_moment(end)}",
            "Renew the issuer or rotate the trust anchor before then: afterwards no proxy gets a "
            "certificate.",
        )


def _ending(snapshot: Snapshot, role: Role, kept: Collection[str], remedy: str = "") -> Problems:
    # `expiries` omits what could not be read; reading it here makes that an error.
    _ = snapshot.trust_bundle if role == "trust anchor" else snapshot.secrets
    for expiry in expiries(snapshot):
        key = expiry.subject.removeprefix("Secret/")
        if expiry.role == role and key not in kept and _is_soon(expiry, snapshot.now):
            info = expiry.info
            when = "expired" if info.not_after <= snapshot.now else "expires"
            text = (
                f"{info.common_name or info.subject} {when} on {_moment(info.not_after)} "
                f"({expiry.days_left:.1f} days)"
            )
            yield Problem(expiry.subject, text, remedy or expiry.remedy)


def _is_soon(expiry: Expiry, now: datetime) -> bool:
    life = expiry.info.not_after - expiry.info.not_before
    return expiry.info.not_after - now < min(SOON, life / 3)


def _kept(snapshot: Snapshot) -> dict[str, Object]:
    """cert-manager's Certificates, by `namespace/Secret`."""
    return {
        f"{obj['metadata']['namespace']}/{obj['spec']['secretName']}": obj
        for obj in snapshot.certificates
    }


def issuance_lifetime(snapshot: Snapshot) -> timedelta:
    """The lifetime of leaves: the installed values' (a Go duration), else the configured one."""
    values = snapshot.control_plane_values or {}
    text = str(values.get("identity", {}).get("issuer", {}).get("issuanceLifetime", ""))
    with suppress(durationpy.DurationError):
        if asked := durationpy.from_str(text):
            return asked
    return timedelta(hours=snapshot.config.lifetimes.leaf_hours)


def _hours(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:.1f} h"


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
