"""The chain of trust: the issuer that signs proxies' certificates, and the trust anchors.

Source: linkerd2 `pkg/healthcheck`, categories linkerd-identity and linkerd-identity-data-plane, and
`pkg/issuercerts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.existence import installed_values
from prefect_linkerd.mesh.checks.renewal import is_renewed
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TRUST_ROOTS
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.pki.certificates import (
    CertificateInfo,
    read_certificates,
    signed_by,
    unsupported_crypto,
)
from prefect_linkerd.mesh.snapshot.mesh import Certificates, Snapshot

identity = Category[Snapshot]("linkerd-identity", "control-plane")
identity_data_plane = Category[Snapshot]("linkerd-identity-data-plane", "proxy")

EXPIRING_SOON = timedelta(days=60)
"""Source: linkerd2 `pkg/issuercerts`, `expirationWarningThresholdInDays`."""

ROTATE = "Run rotate_anchor."
RECOVER = "Check the clock. If it has expired, run rotate_anchor with recover."
RESTORE = "Put the mesh's trust anchors there again, in PEM."
ISSUE = "Run bootstrap, which issues one; if cert-manager manages it, look at its Certificate."
REISSUE = (
    "Delete the Secret and run bootstrap again, which issues a new one; if cert-manager manages "
    "it, renew its Certificate (cmctl renew)."
)

EXTERNAL, OWN = "kubernetes.io/tls", "linkerd.io/tls"
KEYS = {EXTERNAL: ("ca.crt", "tls.crt", "tls.key"), OWN: ("crt.pem", "key.pem")}
"""The keys that the issuer's Secret needs, by the scheme that the mesh is installed with."""


def _subject(snapshot: Snapshot) -> str:
    return f"Secret/{snapshot.config.namespaces.linkerd}/{ISSUER_SECRET}"


def _scheme(snapshot: Snapshot) -> str:
    values: Mapping[str, Any] = installed_values(snapshot).get("identity") or {}
    issuer: Mapping[str, Any] = values.get("issuer") or {}
    return EXTERNAL if issuer.get("scheme") == EXTERNAL else OWN


def _secret(snapshot: Snapshot) -> Certificates | None:
    return snapshot.secrets.get(f"{snapshot.config.namespaces.linkerd}/{ISSUER_SECRET}")


def _anchors_text(snapshot: Snapshot) -> str:
    """The anchors in the issuer's Secret; with Linkerd's own scheme, those in the values."""
    if _scheme(snapshot) == OWN:
        return str(installed_values(snapshot).get("identityTrustAnchorsPEM", ""))
    secret = _secret(snapshot)
    return secret.authority if secret else ""


def anchors(snapshot: Snapshot) -> list[CertificateInfo]:
    """The trust anchors that linkerd checks.

    Raises:
        Skip: they cannot be read; `l5d-identity-cert-config-valid` reports it.
    """
    try:
        return read_certificates(_anchors_text(snapshot), f"trust anchors of {_subject(snapshot)}")
    except MeshError as error:
        raise Skip(f"the trust anchors cannot be read: {error.found}") from None


def issuer_chain(snapshot: Snapshot) -> list[CertificateInfo]:
    """The issuer, and the intermediates that follow it.

    Raises:
        Skip: it cannot be read; `l5d-identity-cert-config-valid` reports it.
    """
    secret = _secret(snapshot)
    try:
        return read_certificates(secret.certificate if secret else "", _subject(snapshot))
    except MeshError as error:
        raise Skip(f"the issuer cannot be read: {error.found}") from None


@identity.check("l5d-identity-cert-config-valid", "certificate config is valid", fatal=True)
def identity_cert_config_valid(snapshot: Snapshot) -> Problems:
    subject, secret = _subject(snapshot), _secret(snapshot)
    scheme = _scheme(snapshot)
    if secret is None:
        yield Problem(subject, "it does not exist", ISSUE)
        return
    lacking = [key for key in KEYS[scheme] if key not in secret.keys]
    if lacking:
        text = f"scheme {scheme} needs {', '.join(lacking)}, which it lacks"
        yield Problem(subject, text, REISSUE)
        return
    yield from _unreadable(secret.certificate, subject, REISSUE)
    yield from _unreadable(_anchors_text(snapshot), f"trust anchors of {subject}", RESTORE)
    if secret.has_matching_key is False:
        yield Problem(subject, "its key does not match its certificate", REISSUE)
    elif secret.has_matching_key is None:
        yield Problem(subject, "its key cannot be read", REISSUE)


def _unreadable(pem: str, subject: str, remedy: str) -> Problems:
    try:
        read_certificates(pem, subject)
    except MeshError as error:
        yield Problem(subject, f"expected {error.expected}, found {error.found}", remedy)


@identity.check(
    "l5d-identity-trustAnchors-use-supported-crypto",
    "trust anchors are using supported crypto algorithm",
    fatal=True,
)
def identity_trust_anchors_use_supported_crypto(snapshot: Snapshot) -> Problems:
    for anchor in anchors(snapshot):
        if wrong := unsupported_crypto(anchor, snapshot.version, is_anchor=True):
            yield Problem(_named(anchor, snapshot), str(wrong), ROTATE)


def _named(anchor: CertificateInfo, snapshot: Snapshot) -> str:
    return f"trust anchor {anchor.common_name} ({anchor.serial}) of {_subject(snapshot)}"


@identity.check(
    "l5d-identity-trustAnchors-are-time-valid",
    "trust anchors are within their validity period",
    fatal=True,
)
def identity_trust_anchors_are_time_valid(snapshot: Snapshot) -> Problems:
    for anchor in anchors(snapshot):
        if text := not_valid_now(anchor, snapshot.now):
            yield Problem(_named(anchor, snapshot), text, RECOVER)


def not_valid_now(info: CertificateInfo, now: datetime) -> str:
    """Why a certificate is not valid now; empty if it is."""
    if info.not_before > now:
        return f"it is not valid before {info.not_before:%Y-%m-%d %H:%M} UTC"
    if info.not_after < now:
        return f"it expired on {info.not_after:%Y-%m-%d %H:%M} UTC"
    return ""


@identity.check(
    "l5d-identity-trustAnchors-not-expiring-soon",
    "trust anchors are valid for at least 60 days",
    "warning",
)
def identity_trust_anchors_not_expiring_soon(snapshot: Snapshot) -> Problems:
    for anchor in anchors(snapshot):
        if text := expires_soon(anchor, snapshot.now):
            yield Problem(_named(anchor, snapshot), text, ROTATE)


def expires_soon(info: CertificateInfo, now: datetime) -> str:
    """When a certificate expires, if that is in less than 60 days; else empty."""
    if now + EXPIRING_SOON > info.not_after:
        return f"it expires {info.not_after:%Y-%m-%d %H:%M} UTC, in {info.days_left(now):.1f} days"
    return ""


@identity.check(
    "l5d-identity-issuer-cert-uses-supported-crypto",
    "issuer cert is using supported crypto algorithm",
    fatal=True,
)
def identity_issuer_cert_uses_supported_crypto(snapshot: Snapshot) -> Problems:
    if wrong := unsupported_crypto(issuer_chain(snapshot)[0], snapshot.version, is_anchor=False):
        yield Problem(_subject(snapshot), str(wrong), REISSUE)


@identity.check(
    "l5d-identity-issuer-cert-is-time-valid",
    "issuer cert is within its validity period",
    fatal=True,
)
def identity_issuer_cert_is_time_valid(snapshot: Snapshot) -> Problems:
    if text := not_valid_now(issuer_chain(snapshot)[0], snapshot.now):
        remedy = "Check the clock. If it has expired, run rotate_issuer with accept_downtime."
        yield Problem(_subject(snapshot), text, remedy)


@identity.check(
    "l5d-identity-issuer-cert-not-expiring-soon",
    "issuer cert is valid for at least 60 days",
    "warning",
)
def identity_issuer_cert_not_expiring_soon(snapshot: Snapshot) -> Problems:
    if is_renewed(snapshot, snapshot.config.namespaces.linkerd, ISSUER_SECRET):
        return
    if text := expires_soon(issuer_chain(snapshot)[0], snapshot.now):
        yield Problem(_subject(snapshot), text, "Run rotate_issuer.")


@identity.check(
    "l5d-identity-issuer-cert-issued-by-trust-anchor",
    "issuer cert is issued by the trust anchor",
)
def identity_issuer_cert_issued_by_trust_anchor(snapshot: Snapshot) -> Problems:
    if not chains(issuer_chain(snapshot), anchors(snapshot), snapshot.now, _subject(snapshot)):
        text = "none of the trust anchors that are valid now signed it"
        remedy = (
            "Put the anchor that signed it back into the trust bundle, or run rotate_anchor with "
            "recover and accept_downtime."
        )
        yield Problem(_subject(snapshot), text, remedy)


def chains(
    chain: Sequence[CertificateInfo],
    roots: Iterable[CertificateInfo],
    now: datetime,
    subject: str,
) -> bool:
    """Whether the first certificate chains to one of the roots through certificates valid now.

    A certificate that is itself a root counts, as in Go's `x509.Certificate.Verify`.
    """
    certificate = chain[0]
    valid_roots = [root for root in roots if not not_valid_now(root, now)]
    valid_chain = [info for info in chain if not not_valid_now(info, now)]
    if certificate not in valid_chain or not valid_roots:
        return False
    if any(root.fingerprint == certificate.fingerprint for root in valid_roots):
        return True
    pem, bundle = ("".join(info.pem for info in infos) for infos in (valid_chain, valid_roots))
    return signed_by(pem, bundle, subject) is not None


@identity_data_plane.check(
    "l5d-identity-data-plane-proxies-certs-match-ca",
    "data plane proxies certificate match CA",
    "warning",
)
def identity_data_plane_proxies_certs_match_ca(snapshot: Snapshot) -> Problems:
    return stale_bundles(snapshot)


def stale_bundles(snapshot: Snapshot, namespace: str | None = None) -> Problems:
    """The pods in one namespace, or in all, whose proxies do not have the mesh's trust bundle.

    The control plane's own proxies read it from the ConfigMap, so they cannot have a stale one.
    """
    control_plane = snapshot.config.namespaces.linkerd
    if release_facts(snapshot.version).publishes_trust_bundle:
        current, source = snapshot.trust_bundle, f"ConfigMap/{control_plane}/{TRUST_ROOTS}"
    else:
        current = str(installed_values(snapshot).get("identityTrustAnchorsPEM", ""))
        source = f"ConfigMap/{control_plane}/linkerd-config"
    for pod in snapshot.pods:
        if pod.namespace == control_plane or namespace not in (None, pod.namespace):
            continue
        bundle = pod.proxy.trust_bundle if pod.proxy is not None and pod.control_plane else ""
        if bundle and bundle.strip() != current.strip():
            text = f"its proxy does not have the trust bundle of {source}"
            yield Problem(pod.subject, text, "Restart its workload.")
