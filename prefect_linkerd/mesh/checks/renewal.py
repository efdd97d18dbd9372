"""Whether cert-manager renews a certificate in time."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect_linkerd.mesh.helm.cert_manager import certificate_for
from prefect_linkerd.mesh.identity.issuer import ready_condition
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.snapshot.mesh import Snapshot, timestamp

LATE = timedelta(minutes=15)
"""How late cert-manager may be with a renewal."""


def overdue(certificate: Object, now: datetime) -> datetime | None:
    """When an overdue Certificate should have been renewed; None if it is on time."""
    due = timestamp(certificate.get("status", {}).get("renewalTime"))
    return due if due is not None and now > due + LATE else None


def is_renewed(snapshot: Snapshot, namespace: str, secret: str) -> bool:
    """Whether cert-manager renews a Secret's certificate: its Certificate is Ready and on time.

    Linkerd's docs have cert-manager issue certificates for a day or two, which would always count
    as expiring soon.
    Source: Linkerd's *Automatically Rotating Control Plane TLS Credentials* and *Automatically
    Rotating Webhook TLS Credentials*.
    """
    if "certificates" in snapshot.unread:
        return False
    there = (c for c in snapshot.certificates if c["metadata"]["namespace"] == namespace)
    certificate = certificate_for(there, secret)
    if certificate is None or not ready_condition(certificate)[0]:
        return False
    has_time = "renewalTime" in certificate.get("status", {})
    return has_time and overdue(certificate, snapshot.now) is None
