"""When every certificate of a mesh ends, and which end first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mesh.errors import MeshError
from mesh.pki import CertificateInfo, read_certificates
from mesh.snapshot import Snapshot
from mesh.trust_anchor import ISSUER_SECRET, TRUST_ROOTS

Role = Literal["trust anchor", "issuer", "webhook"]


@dataclass(frozen=True)
class Expiry:
    """One certificate of the mesh: what it is for, where it is, and how long it has.

    `days_left` is negative once it has ended.
    """

    role: Role
    name: str
    subject: str
    info: CertificateInfo
    days_left: float


def expiries(snapshot: Snapshot) -> tuple[Expiry, ...]:
    """Every certificate that can be read, the first to end first. What cannot be is left out."""
    found = [
        Expiry(role, name, subject, info, info.days_left(snapshot.now))
        for role, name, subject, pem, count in _texts(snapshot)
        for info in _read(pem, subject)[:count]
    ]
    return tuple(sorted(found, key=lambda expiry: expiry.info.not_after))


def _texts(snapshot: Snapshot) -> Iterator[tuple[Role, str, str, str, int | None]]:
    namespace = snapshot.config.namespaces.linkerd
    if "trust_bundle" not in snapshot.unread:
        yield (
            "trust anchor",
            "trust anchor",
            f"ConfigMap/{namespace}/{TRUST_ROOTS}",
            snapshot.trust_bundle,
            None,
        )
    if "secrets" in snapshot.unread:
        return
    for key, secret in sorted(snapshot.secrets.items()):
        name = key.partition("/")[2]
        role: Role = "issuer" if name == ISSUER_SECRET else "webhook"
        title = "issuer" if role == "issuer" else name.removesuffix("-k8s-tls")
        # After the certificate itself come those that signed it.
        yield role, title, f"Secret/{key}", secret.certificate, 1


def _read(pem: str, subject: str) -> list[CertificateInfo]:
    try:
        return read_certificates(pem, subject) if pem else []
    except MeshError:
        return []


def soonest(found: tuple[Expiry, ...], role: Role) -> datetime | None:
    """When the first certificate of a role ends."""
    return min((e.info.not_after for e in found if e.role == role), default=None)
