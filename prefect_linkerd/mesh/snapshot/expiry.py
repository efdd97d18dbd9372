"""When each certificate of a mesh expires, which expire first, and which need attention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TRUST_ROOTS
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    CertificateInfo,
    authorities_of,
    read_certificates,
)
from prefect_linkerd.mesh.snapshot.mesh import (
    Certificates,
    Snapshot,
    read_secrets,
    read_trust_bundle,
)
from prefect_linkerd.mesh.snapshot.webhooks import WebhookSigner, read_webhook_signers

Role = Literal["trust anchor", "issuer", "webhook", "webhook CA"]


@dataclass(frozen=True)
class Expiry:
    """One certificate of the mesh: what it is for, where it is, and how long it is still valid.

    `days_left` is negative once it has expired. `renewed_by` names what renews it automatically,
    empty if nothing does; `remedy` says what to do about it if no flow renews it.
    """

    role: Role
    name: str
    subject: str
    info: CertificateInfo
    days_left: float
    renewed_by: Literal["", "cert-manager"] = ""
    remedy: str = ""

    @property
    def title(self) -> str:
        """Its name and common name; a webhook's common name is its name with the namespace."""
        common = self.info.common_name
        return common if common.startswith(f"{self.name}.") else f"{self.name}: {common}"

    @property
    def lifetime(self) -> timedelta:
        return self.info.not_after - self.info.not_before


@dataclass(frozen=True)
class Expiring:
    """A certificate that is about to expire: with fewer days left than the threshold."""

    expiry: Expiry
    threshold: float

    @property
    def remedy(self) -> str:
        """Which flow to run, or what else to do."""
        if self.expiry.renewed_by:
            return "cert-manager should have renewed it: look at its Certificate and its log."
        flows = {"trust anchor": "rotate_anchor", "issuer": "rotate_issuer"}
        return self.expiry.remedy or f"Run {flows.get(self.expiry.role, 'rotate_webhooks')}."


def read_expiries(mesh: Mesh) -> tuple[Expiry, ...]:
    """Every certificate of a mesh, with a handful of reads, most of them of named objects.

    Raises:
        ApiError: one of them could not be read.
        CertificateError: one of them is not a certificate.
    """
    bundle = read_trust_bundle(mesh)
    secrets = read_secrets(mesh)
    signers = read_webhook_signers(mesh)
    return _sorted(_expiries(mesh.config, bundle, secrets, signers, mesh.cluster.clock()))


def expiries(snapshot: Snapshot) -> tuple[Expiry, ...]:
    """Every certificate of a snapshot, the first to expire first; omits what cannot be read."""
    unread = snapshot.unread
    return _sorted(
        _expiries(
            snapshot.config,
            "" if "trust_bundle" in unread else snapshot.trust_bundle,
            {} if "secrets" in unread else snapshot.secrets,
            () if "webhook_signers" in unread else snapshot.webhook_signers,
            snapshot.now,
            is_lenient=True,
        )
    )


def _sorted(found: Iterable[Expiry]) -> tuple[Expiry, ...]:
    return tuple(sorted(found, key=lambda expiry: expiry.info.not_after))


def _expiries(
    config: MeshConfig,
    bundle: str,
    secrets: Mapping[str, Certificates],
    signers: Iterable[WebhookSigner],
    now: datetime,
    *,
    is_lenient: bool = False,
) -> Iterator[Expiry]:
    for info in _read(bundle, f"ConfigMap/{config.namespaces.linkerd}/{TRUST_ROOTS}", is_lenient):
        subject = f"ConfigMap/{config.namespaces.linkerd}/{TRUST_ROOTS}"
        yield Expiry("trust anchor", "trust anchor", subject, info, info.days_left(now))
    for key, secret in sorted(secrets.items()):
        name = key.partition("/")[2]
        is_issuer = name == ISSUER_SECRET
        # The certificates that signed it follow the certificate itself.
        for info in _read(secret.certificate, f"Secret/{key}", is_lenient)[:1]:
            yield Expiry(
                "issuer" if is_issuer else "webhook",
                "issuer" if is_issuer else name.removesuffix("-k8s-tls"),
                f"Secret/{key}",
                info,
                info.days_left(now),
                "cert-manager" if secret.is_cert_managers or _is_kept(config, name) else "",
            )
    yield from _authorities(secrets, signers, now, is_lenient)


def _authorities(
    secrets: Mapping[str, Certificates],
    signers: Iterable[WebhookSigner],
    now: datetime,
    is_lenient: bool,
) -> Iterator[Expiry]:
    """The CAs of webhooks, except self-signed certificates, which charts generate."""
    by_authority: dict[tuple[str, str], list[WebhookSigner]] = {}
    infos: dict[str, CertificateInfo] = {}
    for signer in signers:
        subject, secret = f"Secret/{signer.key}", secrets.get(signer.key)
        if secret is None or not (chain := _read(secret.certificate, subject, is_lenient)):
            continue
        leaf, *found = chain
        for pem, where in ((secret.authority, subject), (signer.bundle, signer.trusted_by)):
            found += _read(pem, where, is_lenient)
        # cert-manager's cainjector keeps former CAs in a caBundle until they expire
        # (CAInjectorMerging).
        for info in authorities_of(leaf, found):
            if info.fingerprint != leaf.fingerprint:
                infos[info.fingerprint] = info
                signed = by_authority.setdefault((signer.namespace, info.fingerprint), [])
                if signer not in signed:
                    signed.append(signer)
    for (namespace, fingerprint), signed in by_authority.items():
        info, first = infos[fingerprint], signed[0]
        yield Expiry(
            "webhook CA",
            f"webhook CA of {namespace}",
            f"Secret/{first.signing or first.key}",
            info,
            info.days_left(now),
            "cert-manager" if first.keeper else "",
            _new_authority(signed),
        )


def _new_authority(signed: Sequence[WebhookSigner]) -> str:
    """How to replace the CA of webhooks."""
    first = signed[0]
    names = " ".join(each.certificate for each in signed if each.certificate)
    if first.signing:
        return (
            f"Put another CA into Secret/{first.signing} (tls.crt and tls.key), then have "
            "cert-manager renew what the old one signed: cmctl renew --namespace "
            f"{first.namespace} {names}. If the release's values have its caBundle, set that "
            "as well. Or let a cert-manager Certificate keep that Secret."
        )
    if names:
        return f"Renew the CA that the issuer of Certificate {names} signs with."
    values = ", ".join(each.webhook.value for each in signed)
    return (
        "Renew the CA and what it signed where they come from, such as the release's values "
        f"crtPEM, keyPEM and caBundle of {values}."
    )


def _is_kept(config: MeshConfig, name: str) -> bool:
    """Whether the configuration lets cert-manager keep a Secret's certificate."""
    is_all = name == ISSUER_SECRET or config.cert_manager.webhook_certificates
    return config.issuer == "cert-manager" and is_all


def _read(pem: str, subject: str, is_lenient: bool) -> list[CertificateInfo]:
    try:
        return read_certificates(pem, subject) if pem else []
    except MeshError:
        if is_lenient:
            return []
        raise


def renewal_margin(expiry: Expiry, config: MeshConfig) -> timedelta:
    """How long before it expires a certificate is renewed automatically."""
    if expiry.role == "issuer":
        return timedelta(hours=config.lifetimes.issuer_renew_before_hours)
    return expiry.lifetime / 24


def expiring(
    found: Iterable[Expiry], config: MeshConfig, thresholds: Sequence[int]
) -> tuple[Expiring, ...]:
    """The certificates that expire soon, each with the smallest threshold that it is under.

    One that cert-manager renews is included once half of the time in which it should have been
    renewed is over; the thresholds, meant for certificates that people renew, would always
    include it.
    """
    due: list[Expiring] = []
    for expiry in found:
        if expiry.renewed_by:
            limits = [renewal_margin(expiry, config) / timedelta(days=2)]
        else:
            limits = [float(days) for days in thresholds]
        crossed = [limit for limit in limits if expiry.days_left < limit]
        if crossed:
            due.append(Expiring(expiry, min(crossed)))
    return tuple(due)


def soonest(found: Iterable[Expiry], role: Role) -> datetime | None:
    """When the first certificate of a role expires."""
    return min((e.info.not_after for e in found if e.role == role), default=None)
