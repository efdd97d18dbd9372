"""What is known about a proxy's certificate and about the issuer that identity signs with."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_linkerd.mesh.rotation.leaves import MARGIN, LeafLifetimes, issued_at, issuer_load
from prefect_linkerd.mesh.snapshot.mesh import Pod, pod_of

DAY = timedelta(hours=24)
ISSUED = datetime(2026, 5, 4, 12, tzinfo=UTC)
CHANGED = datetime(2026, 5, 4, 12, 0, 1, tzinfo=UTC)


def seconds(moment: datetime) -> str:
    return f"{moment.timestamp():.3f}"


EXPIRY = seconds(ISSUED + DAY + timedelta(seconds=20))


@pytest.mark.parametrize(
    ("metrics", "issued"),
    [
        (f"identity_cert_expiration_timestamp_seconds {EXPIRY}\n", ISSUED),
        (f"control_identity_cert_expiration_timestamp_seconds {EXPIRY}\n", ISSUED),
        (
            f"control_identity_cert_expiration_timestamp_seconds {EXPIRY}\n"
            f"control_identity_cert_refresh_timestamp_seconds {seconds(ISSUED)}\n",
            ISSUED,
        ),
        ("# TYPE identity_cert_expiration_timestamp_seconds gauge\n", None),
        # A proxy without a certificate.
        ("control_identity_cert_refresh_timestamp_seconds 0\n", None),
        ("identity_cert_expiration_timestamp_seconds NaN\n", None),
        ("other_identity_cert_expiration_timestamp_seconds 1778000000\n", None),
        ("", None),
    ],
)
def test_a_certificate_is_dated_by_the_metrics_of_any_version(
    metrics: str, issued: datetime | None
) -> None:
    assert issued_at(metrics, LeafLifetimes(frozenset({DAY})), None, ISSUED + DAY) == issued


SHORT = timedelta(minutes=20)
EITHER = LeafLifetimes(frozenset({DAY, SHORT}))


def issued_by(
    life: timedelta, started: timedelta, now: timedelta, *, refreshed: timedelta | None = None
) -> timedelta | None:
    """How long after its real issuance a proxy's metrics date a certificate."""
    lines = [f"identity_cert_expiration_timestamp_seconds {seconds(ISSUED + life + SKEW)}\n"]
    if refreshed is not None:
        lines.append(f"identity_cert_refresh_timestamp_seconds {seconds(ISSUED + refreshed)}\n")
    found = issued_at("".join(lines), EITHER, ISSUED + started, ISSUED + now)
    return found - ISSUED if found is not None else None


SKEW = timedelta(seconds=20)
NOTHING = timedelta()
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize("life", [DAY, SHORT])
def test_a_certificate_of_either_lifetime_is_dated_by_when_its_proxy_started(
    life: timedelta,
) -> None:
    assert issued_by(life, started=-MINUTE, now=5 * MINUTE) == NOTHING


def test_a_certificate_that_may_have_either_lifetime_counts_as_the_older() -> None:
    # A proxy that has run for days may have had its certificate for a day already.
    assert issued_by(SHORT, started=-9 * DAY, now=5 * MINUTE) == SHORT - DAY
    # A certificate of a day is never taken for one of minutes issued in the future.
    assert issued_by(DAY, started=-9 * DAY, now=5 * MINUTE) == NOTHING


def test_a_certificate_of_a_lifetime_that_nobody_knows_is_not_dated() -> None:
    assert issued_by(2 * DAY, started=-MINUTE, now=5 * MINUTE) is None


def test_a_proxy_whose_clock_is_ahead_proves_nothing() -> None:
    assert issued_by(SHORT, started=-MINUTE, now=MINUTE, refreshed=MINUTE) == NOTHING
    assert issued_by(SHORT, started=-MINUTE, now=MINUTE, refreshed=-MINUTE) == -MINUTE


def identity(after: float) -> Pod:
    """An identity pod that started `after` seconds after the issuer was written."""
    made = pod_of({"metadata": {"namespace": "l", "name": "i"}, "spec": {"containers": []}})
    return replace(made, started=CHANGED + timedelta(seconds=after))


def event(reason: str, after: float) -> dict[str, Any]:
    at = (CHANGED + timedelta(seconds=after)).isoformat()
    return {"reason": reason, "lastTimestamp": at, "message": "words"}


def test_a_pod_that_started_later_has_read_it() -> None:
    assert (
        issuer_load([identity(60)], CHANGED, []).since == CHANGED + timedelta(seconds=60) + MARGIN
    )


def test_a_pod_that_ran_already_has_to_say_so() -> None:
    assert issuer_load([identity(-60)], CHANGED, []).since is None
    before = event("IssuerUpdated", -30)
    assert issuer_load([identity(-60)], CHANGED, [before]).since is None
    said = issuer_load([identity(-60)], CHANGED, [before, event("IssuerUpdated", 40)])
    assert said.since == CHANGED + timedelta(seconds=40) + MARGIN


def test_every_replica_has_to_say_so() -> None:
    pods = [identity(-60), identity(-50), identity(30)]
    one = [event("IssuerUpdated", 40)]
    assert issuer_load(pods, CHANGED, one).since is None
    both = issuer_load(pods, CHANGED, [*one, event("IssuerUpdated", 55)])
    assert both.since == CHANGED + timedelta(seconds=55) + MARGIN


def test_a_start_within_the_clocks_difference_proves_nothing() -> None:
    assert issuer_load([identity(1)], CHANGED, []).since is None


def test_a_refusal_is_told() -> None:
    load = issuer_load([identity(-60)], CHANGED, [event("IssuerUpdateSkipped", 40)])
    assert (load.since, load.skipped) == (None, "words")
    assert load.readable == CHANGED + MARGIN


def test_nothing_signs_where_there_is_no_pod_or_no_issuer() -> None:
    assert issuer_load([], CHANGED, []).since is None
    assert issuer_load([identity(60)], None, []).since is None
