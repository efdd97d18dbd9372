"""Proof that running proxies have a certificate from a new issuer.

The Kubernetes API does not show a proxy's certificate. What can be known is when it was issued: not
before its pod started, and, if the probe's pods or the API server can reach the proxy's admin port,
at the time that its `identity_cert` metrics show. Once every identity pod signs with the new
issuer, any certificate issued since comes from it. If neither time proves that, the pod has to be
recreated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.snapshot.mesh import Pod, timestamp
from prefect_linkerd.mesh.snapshot.proxy_metrics import Census, metrics_of, no_census

MARGIN = timedelta(seconds=5)
"""How far the clocks of nodes and of the API server are assumed to differ when ordering events."""

CLOCK_SKEW_ALLOWANCE = timedelta(seconds=20)
"""What the charts add to a leaf's lifetime at each end (identity.issuer.clockSkewAllowance)."""

READERS = 16
CENSUS_SECONDS = 10.0
"""How long proxies have to answer when many are queried at once."""

# Stable releases expose the first name; edge releases expose both, prefixed with `control_`.
_EXPIRATION = "identity_cert_expiration_timestamp_seconds"
_REFRESHED = "identity_cert_refresh_timestamp_seconds"
METRICS = tuple(place + name for name in (_EXPIRATION, _REFRESHED) for place in ("", "control_"))


@dataclass(frozen=True)
class LeafLifetimes:
    """Every lifetime that a running leaf may have been issued with.

    `skew` is what the identity service adds at its end for clocks that differ.
    """

    spans: frozenset[timedelta]
    skew: timedelta = CLOCK_SKEW_ALLOWANCE

    def issued(self, expiry: datetime, started: datetime | None, now: datetime) -> datetime | None:
        """When a leaf with this expiry was issued, by the identity service's clock.

        Returns the earliest time that fits: not before its proxy started, and not in the future.
        None if no time fits.
        """
        first = started - MARGIN if started is not None else datetime.min.replace(tzinfo=UTC)
        found = (expiry - span - self.skew for span in self.spans)
        return min((at for at in found if first <= at <= now + MARGIN), default=None)


def issued_at(
    metrics: str, lifetimes: LeafLifetimes, started: datetime | None, now: datetime
) -> datetime | None:
    """When a proxy's certificate was issued, by its metrics; never later than it really was.

    Takes the earlier of two times: one by the proxy's own clock, if its metrics have it, and one by
    the identity service's, so a single node whose clock is ahead proves nothing. A certificate cut
    short by its issuer's expiry counts as older.

    Args:
        metrics: the response of the proxy's admin port, in Prometheus' text format.
        started: when its pod started.
    """
    expiry, refreshed = _moment(_EXPIRATION, metrics), _moment(_REFRESHED, metrics)
    issued = lifetimes.issued(expiry, started, now) if expiry is not None else None
    return min((at for at in (issued, refreshed) if at is not None), default=None)


def _moment(name: str, metrics: str) -> datetime | None:
    if not (found := re.search(rf"^(?:control_)?{name}\s+(\S+)", metrics, re.MULTILINE)):
        return None
    try:
        moment = datetime.fromtimestamp(float(found[1]), UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment if moment > datetime.fromtimestamp(0, UTC) else None


def read_issued(
    cluster: Cluster,
    pods: Sequence[Pod],
    lifetimes: LeafLifetimes,
    census: Census = no_census,
) -> dict[str, datetime]:
    """When the certificates of pods were issued, by pod UID; leaves out unreachable pods.

    Args:
        census: queries many at once; pods that do not answer are queried through the API server.
    """
    now = cluster.clock()
    told = census(pods, METRICS, CENSUS_SECONDS)

    def read(pod: Pod) -> tuple[str, datetime | None]:
        metrics = told.get(pod.uid)
        if metrics is None:
            try:
                metrics = metrics_of(cluster, pod)
            except (ApiError, UnicodeDecodeError):
                return pod.uid, None
        return pod.uid, issued_at(metrics, lifetimes, pod.started, now)

    with ThreadPoolExecutor(READERS) as pool:
        return {uid: moment for uid, moment in pool.map(read, pods) if moment is not None}


@dataclass(frozen=True)
class IssuerLoad:
    """Whether the identity service signs with the issuer in the Secret.

    `since` is the time from which every identity pod does, None while one may not. A pod that
    starts after `readable` is sure to read it. `skipped` is the message of an identity pod that
    refused the issuer.
    """

    since: datetime | None
    skipped: str = ""
    readable: datetime | None = None


def issuer_load(
    identity: Iterable[Pod], changed: datetime | None, events: Iterable[Object]
) -> IssuerLoad:
    """Decides from the identity pods and their events since the issuer's Secret changed.

    A pod reads the Secret when it starts; one that was already running reports `IssuerUpdated`, in
    a separate event per pod.

    Args:
        identity: every running pod of the identity service.
        changed: when the Secret was last written.
        events: those of Deployment linkerd-identity.
    """
    pods = list(identity)
    if changed is None or not pods:
        return IssuerLoad(None)
    readable = changed + MARGIN
    since = [changed]
    older = 0
    for pod in pods:
        if pod.started is not None and pod.started >= readable:
            since.append(pod.started)
        else:
            older += 1
    loads: list[datetime] = []
    skipped: list[tuple[datetime, str]] = []
    for event in events:
        at = timestamp(event.get("lastTimestamp") or event.get("eventTime"))
        # An event's time is truncated to the second, the change's is rounded up.
        if at is None or at < changed - timedelta(seconds=1):
            continue
        if event.get("reason") == "IssuerUpdated":
            loads.append(at)
        elif event.get("reason") == "IssuerUpdateSkipped":
            skipped.append((at, str(event.get("message", ""))))
    if older > len(loads):
        return IssuerLoad(None, max(skipped)[1] if skipped else "", readable)
    return IssuerLoad(max([*since, *loads]) + MARGIN, readable=readable)
