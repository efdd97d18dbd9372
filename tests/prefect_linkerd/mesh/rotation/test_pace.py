"""A rotation's pace, and what the gentle one writes into the release's values."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from prefect_linkerd.mesh.helm.values import text_at
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.restarts import DataPlane, RestartTarget
from prefect_linkerd.mesh.rotation.leaves import LeafLifetimes
from prefect_linkerd.mesh.rotation.options import RotationOptions
from prefect_linkerd.mesh.rotation.pace import (
    GENTLE_OVER,
    LIFETIME,
    decide_pace,
    leaf_times,
    renewal_seconds,
    with_lifetime,
    with_lifetime_restored,
)

DAY = timedelta(hours=24)
RECORD = RotationRecord("new", "old", "", "bundle", "2026-05-04")


def plane(workloads: int) -> DataPlane:
    names = [("Deployment", "linkerd", "linkerd-identity"), ("Deployment", "linkerd-viz", "web")]
    names += [("Deployment", "apps", f"app-{number}") for number in range(workloads)]
    targets = {name: RestartTarget(name, {}, 0, 1, is_complete=True) for name in names}
    return DataPlane("linkerd", frozenset({"linkerd-viz"}), (), targets, ())


@pytest.mark.parametrize(
    ("given", "workloads", "may_read", "has_certificate", "pace"),
    [
        ({}, GENTLE_OVER, True, False, "quick"),
        ({}, GENTLE_OVER + 1, True, False, "gentle"),
        ({}, GENTLE_OVER + 1, False, False, "quick"),
        ({}, GENTLE_OVER + 1, True, True, "quick"),
        ({"renewal": "wait"}, GENTLE_OVER + 1, True, False, "quick"),
        ({"pace": "quick"}, GENTLE_OVER + 1, True, False, "quick"),
        ({"pace": "gentle"}, 1, False, False, "gentle"),
    ],
)
def test_large_meshes_are_rotated_gently_where_it_can_be_proven(
    given: dict[str, Any], workloads: int, may_read: bool, has_certificate: bool, pace: str
) -> None:
    found = decide_pace(
        RotationOptions(**given),
        plane(workloads),
        may_read_proxies=may_read,
        has_certificate=has_certificate,
    )
    assert found == pace


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"identityTrustAnchorsPEM": "a"},
        {"identity": {"issuer": {"scheme": "kubernetes.io/tls"}}},
        {"identity": {"issuer": {"issuanceLifetime": "36h0m0s", "scheme": "kubernetes.io/tls"}}},
    ],
)
def test_the_lifetime_is_put_back_to_what_the_release_had(values: dict[str, Any]) -> None:
    record = RotationRecord(
        **{**vars(RECORD), "shortened": "20m0s", "lifetime": text_at(values, *LIFETIME)}
    )
    short = with_lifetime(values, "20m0s")
    assert text_at(short, *LIFETIME) == "20m0s"
    assert with_lifetime_restored(short, record) == values
    # The run died before writing the release; then somebody has set another value meanwhile.
    assert with_lifetime_restored(values, record) == values
    other = with_lifetime(values, "2h")
    assert with_lifetime_restored(other, record) == other


def test_a_renewal_is_waited_for_less_than_a_quarter_of_an_hour_by_default() -> None:
    assert 14 * 60 < renewal_seconds(RotationOptions()) < 15 * 60


@pytest.mark.parametrize(
    ("lifetime", "minutes", "shortened", "is_short"),
    [
        ("20m0s", 20, "20m0s", True),
        # Resumed with another option.
        ("20m0s", 5, "20m0s", True),
        # Set by somebody else meanwhile; then never shortened because it was short enough.
        ("24h0m0s", 20, "20m0s", False),
        ("10m0s", 20, "", True),
    ],
)
def test_renewals_are_waited_for_where_certificates_live_shortly(
    lifetime: str, minutes: float, shortened: str, is_short: bool
) -> None:
    record = RotationRecord(**{**vars(RECORD), "shortened": shortened})
    times = leaf_times(with_lifetime({}, lifetime), {})
    assert times.is_short(RotationOptions(leaf_minutes=minutes), record) == is_short


def test_certificates_may_have_the_lifetimes_from_before_and_during_a_rotation() -> None:
    defaults = {"identity": {"issuer": {"issuanceLifetime": "24h0m0s", "clockSkewAllowance": "9s"}}}
    skew = timedelta(seconds=9)
    assert leaf_times({}, defaults).lifetimes(RECORD) == LeafLifetimes(frozenset({DAY}), skew)
    record = RotationRecord(**{**vars(RECORD), "shortened": "20m0s", "lifetime": "36h0m0s"})
    assert leaf_times(with_lifetime({}, "20m0s"), defaults).lifetimes(record) == LeafLifetimes(
        frozenset({timedelta(minutes=20), timedelta(hours=36)}), skew
    )
