"""The pace of a rotation: which steps restart workloads, and which wait until proxies renew.

`quick` restarts every workload three times: to trust the new anchor, to get a certificate under it,
and to drop the old one. `gentle` restarts each once, to trust the new anchor. The upgrade that
spreads the bundle also shortens the certificates' lifetime, so proxies that start after it renew
within minutes; once identity signs under the new anchor, waiting for that is enough. The old anchor
is removed from the bundle as soon as no proxy has a certificate under it. A running proxy trusts it
until it restarts, which leaves no gap: all its peers have certificates under the new anchor.

In every version since 2.11 the identity service takes the lifetime from its arguments, so its
Deployment restarts when the value changes. A proxy renews at 70 % of the lifetime that its
certificate has left on receipt.
Source: linkerd2 `charts/linkerd-control-plane/templates/identity.yaml` (in 2.11
`charts/linkerd2/templates/identity.yaml`), `pkg/tls/ca.go` (Validity); linkerd2-proxy
`linkerd/proxy/identity-client/src/certify.rs` (refresh).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import durationpy

from prefect_linkerd.mesh.helm.values import Values, merge, text_at, without
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.restarts import DataPlane
from prefect_linkerd.mesh.rotation.leaves import CLOCK_SKEW_ALLOWANCE, LeafLifetimes
from prefect_linkerd.mesh.rotation.options import RotationOptions
from prefect_linkerd.mesh.rotation.snapshot import RotationSnapshot

Pace = Literal["gentle", "quick"]

GENTLE_OVER = 300
"""Meshed workloads above which a rotation is gentle by default: beyond this, restarts dominate."""

RENEWS_AT = 0.7
"""The fraction of its certificate's lifetime after which a proxy renews."""

CHARTS_LIFETIME = "24h0m0s"
"""The charts' default lifetime of certificates, in every version."""

LIFETIME = ("identity", "issuer", "issuanceLifetime")
SKEW = ("identity", "issuer", "clockSkewAllowance")


def read_duration(text: str) -> timedelta | None:
    """A duration as Go writes it, or None for any other text."""
    with suppress(durationpy.DurationError):
        return durationpy.from_str(text)
    return None


def decide_pace(
    options: RotationOptions,
    data_plane: DataPlane,
    *,
    may_read_proxies: bool,
    has_certificate: bool,
) -> Pace:
    """The pace of a new rotation.

    Args:
        may_read_proxies: whether this identity may read proxies' metrics, which `gentle` needs as
            proof of renewal.
        has_certificate: whether a Certificate owns the anchor. Then cert-manager's schedule renews
            the issuer, and identity must not restart before every proxy trusts the new anchor; a
            shorter lifetime would restart it.
    """
    if options.pace != "auto":
        return options.pace
    if has_certificate or not may_read_proxies or options.renewal == "wait":
        return "quick"
    return "gentle" if workloads_of(data_plane) > GENTLE_OVER else "quick"


def pace_of(cluster: Cluster, snapshot: RotationSnapshot, options: RotationOptions) -> Pace:
    """The pace of a rotation that starts now; checks whether this identity may read proxies."""
    is_asked = options.pace == "auto" and workloads_of(snapshot.data_plane) > GENTLE_OVER
    return decide_pace(
        options,
        snapshot.data_plane,
        may_read_proxies=is_asked and cluster.allowed("get", "pods/proxy"),
        has_certificate=snapshot.anchor is not None,
    )


def workloads_of(data_plane: DataPlane) -> int:
    """The number of meshed workloads, without the control plane and the extensions."""
    return sum(data_plane.stage(each[1]) == "workloads" for each in data_plane.targets)


def with_lifetime(values: Mapping[str, Any], text: str) -> Values:
    """Values with this lifetime of certificates; without any if the text is empty."""
    if text:
        return merge(values, {LIFETIME[0]: {LIFETIME[1]: {LIFETIME[2]: text}}})
    kept = without(values, [LIFETIME])
    for parent in (LIFETIME[:2], LIFETIME[:1]):
        if not text_at(kept, *parent):
            kept = without(kept, [parent])
    return kept


def with_lifetime_restored(values: Mapping[str, Any], record: RotationRecord) -> Values:
    """Values with the lifetime from before a rotation shortened it.

    Keeps a lifetime that somebody has set since.
    """
    if not record.is_shortened or text_at(values, *LIFETIME) != record.shortened:
        return dict(values)
    return with_lifetime(values, record.lifetime)


@dataclass(frozen=True)
class LeafTimes:
    """The lifetime of certificates and the clock skew, by the control plane's current values."""

    span: timedelta
    skew: timedelta

    @property
    def renewal(self) -> timedelta:
        """How long after receiving a certificate a proxy requests the next one."""
        return RENEWS_AT * (self.span + self.skew)

    @property
    def grace(self) -> timedelta:
        """How much later than `renewal` a proxy may receive it."""
        return max(timedelta(seconds=15), self.span * 0.03)

    def is_short(self, options: RotationOptions, record: RotationRecord) -> bool:
        """Whether certificates are short-lived enough to wait until proxies renew."""
        noted = read_duration(record.shortened) or timedelta()
        return self.span <= max(timedelta(minutes=options.leaf_minutes), noted)

    def lifetimes(self, record: RotationRecord | None) -> LeafLifetimes:
        """Every lifetime that a running proxy's certificate may have."""
        spans = {self.span}
        if record is not None and record.shortened:
            texts = (record.shortened, record.lifetime or CHARTS_LIFETIME)
            spans |= {span for text in texts if (span := read_duration(text))}
        return LeafLifetimes(frozenset(spans), self.skew)


def renewal_seconds(options: RotationOptions) -> float:
    """How long a gentle rotation waits at most for proxies to renew."""
    times = LeafTimes(timedelta(minutes=options.leaf_minutes), CLOCK_SKEW_ALLOWANCE)
    return (times.renewal + times.grace).total_seconds()


def leaf_times(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> LeafTimes:
    """The lifetime and clock skew of certificates.

    Args:
        values: the values of the control plane's release.
        defaults: the default values of its chart.
    """
    found = merge(defaults, values)
    return LeafTimes(
        read_duration(text_at(found, *LIFETIME)) or timedelta(hours=24),
        read_duration(text_at(found, *SKEW)) or CLOCK_SKEW_ALLOWANCE,
    )
