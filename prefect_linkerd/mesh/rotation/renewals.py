"""When proxies renew by themselves, and which of them are queried to see whether they have. Pure.

Each proxy costs one request to the API server, so a rotation queries none before its answer can
have changed: first a few of those that renew last, and once these have, all the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from prefect_linkerd.mesh.snapshot.mesh import Pod

FIRST = 10
"""How many proxies are queried before all the others."""


def renews_at(
    started: datetime | None, issued: datetime | None, since: datetime, every: timedelta
) -> datetime:
    """When a proxy should have a certificate that was issued after `since`.

    It renews in equal steps from its start, or one step after the issue of the certificate last
    seen: at once if that time has passed. Never later than a whole step after `since`.

    Args:
        started: when its pod started.
        issued: when the certificate that it was last seen with was issued.
        every: how long after receiving a certificate a proxy requests the next one.
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


def queried_first(
    pods: Sequence[Pod],
    issued: Mapping[str, datetime],
    silent: Collection[str],
    since: datetime,
    every: timedelta,
) -> tuple[Pod, ...]:
    """The few pods to query before all the others: those that should renew last.

    Args:
        silent: the UIDs of pods that did not answer; they sort last, as they prove nothing about
            the others.
    """

    def order(pod: Pod) -> tuple[bool, float, str]:
        at = renews_at(pod.started, issued.get(pod.uid), since, every)
        return pod.uid in silent, -at.timestamp(), pod.uid

    return tuple(sorted(pods, key=order)[:FIRST])


def may_have_renewed(
    pods: Iterable[Pod],
    issued: Mapping[str, datetime],
    since: datetime,
    every: timedelta,
    now: datetime,
) -> tuple[Pod, ...]:
    """The pods that may have renewed: all but those known to renew later."""
    return tuple(
        pod
        for pod in pods
        if (seen := issued.get(pod.uid)) is None or renews_at(None, seen, since, every) <= now
    )
