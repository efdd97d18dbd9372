"""When proxies renew by themselves, and which of them are asked whether they have. Pure.

Each proxy is one request to the API server, so a rotation asks no sooner than their answer can have
changed: first a few of those that renew last, and everybody once these have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from prefect_linkerd.mesh.snapshot.mesh import Pod

FIRST = 10
"""Proxies that are asked before everybody is."""


def renews_at(
    started: datetime | None, issued: datetime | None, since: datetime, every: timedelta
) -> datetime:
    """When a proxy should have a certificate that was issued since a moment.

    It renews in equal steps from its start on, or a step after the certificate that it was seen
    with: at once, where that is over. Never later than a whole step after that moment.

    Args:
        started: when its pod started.
        issued: when the certificate that it was last seen with was issued.
        every: how long after it got a certificate a proxy asks for the next one.
    """
    latest = since + every
    if issued is not None:
        return min(issued if issued >= since else max(issued + every, since), latest)
    if started is None or every <= timedelta():
        return latest
    steps = max(-((started - since) // every), 0)
    return min(started + steps * every, latest)


def all_renewed_at(
    pods: Iterable[Pod], issued: Mapping[str, datetime], since: datetime, every: timedelta
) -> datetime:
    """When the last of these proxies should have renewed; see `renews_at`."""
    moments = (renews_at(pod.started, issued.get(pod.uid), since, every) for pod in pods)
    return max(moments, default=since)


def asked_first(
    pods: Sequence[Pod],
    issued: Mapping[str, datetime],
    silent: Collection[str],
    since: datetime,
    every: timedelta,
) -> tuple[Pod, ...]:
    """The few that are asked before everybody: those that should renew last.

    Args:
        silent: the UIDs of pods that gave no answer, which say nothing of the others either.
    """

    def order(pod: Pod) -> tuple[bool, float, str]:
        at = renews_at(pod.started, issued.get(pod.uid), since, every)
        return pod.uid in silent, -at.timestamp(), pod.uid

    return tuple(sorted(pods, key=order)[:FIRST])


def worth_asking(
    pods: Iterable[Pod],
    issued: Mapping[str, datetime],
    since: datetime,
    every: timedelta,
    now: datetime,
) -> tuple[Pod, ...]:
    """Those that may have renewed: all but what has said that it renews later."""
    return tuple(
        pod
        for pod in pods
        if (seen := issued.get(pod.uid)) is None or renews_at(None, seen, since, every) <= now
    )
