"""What chance can do to counts: it is neither reported as a fault nor hides one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_linkerd.mesh.chance import is_plausible, plausible_counts, plausible_shares

ALARM = 1e-6


def binomial_tail(total: int, share: float, count: int) -> float:
    """The exact probability of a count at least this far from the mean, on the same side."""
    terms = range(count, total + 1) if count > total * share else range(count + 1)
    return sum(math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in terms)


@settings(max_examples=200)
@given(st.integers(1, 300), st.floats(0.01, 0.99), st.data())
def test_only_what_is_truly_unlikely_is_called_implausible(
    total: int, share: float, data: st.DataObject
) -> None:
    """The bound against the exact tail: a false alarm is never likelier than ALARM."""
    count = data.draw(st.integers(0, total))
    if not is_plausible(count, total, share, ALARM):
        assert binomial_tail(total, share, count) <= ALARM


@given(st.integers(1, 2000), st.integers(1, 99))
def test_the_plausible_counts_are_one_range_around_the_mean(total: int, percent: int) -> None:
    low, high = plausible_counts(total, percent / 100, ALARM)
    assert 0 <= low <= round(total * percent / 100) <= high <= total
    assert low == 0 or not is_plausible(low - 1, total, percent / 100, ALARM)
    assert high == total or not is_plausible(high + 1, total, percent / 100, ALARM)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_and_all_leave_nothing_to_chance(share: float) -> None:
    assert is_plausible(round(share) * 100, 100, share, ALARM)
    assert not is_plausible(99 if share else 1, 100, share, ALARM)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_the_plausible_shares_are_one_range_around_the_observed_one(a: int, b: int) -> None:
    count, total = min(a, b), max(a, b)
    low, high = plausible_shares(count, total, ALARM)
    if total == 0:
        assert (low, high) == (0, 1)
        return
    assert 0 <= low <= count / total <= high <= 1
    assert low == 0 or not is_plausible(count, total, low * 0.999, ALARM)
    assert high == 1 or not is_plausible(count, total, high + (1 - high) * 0.001, ALARM)


@given(st.integers(0, 300), st.integers(1, 300), st.integers(2, 20))
def test_more_requests_at_the_same_rate_leave_fewer_shares_plausible(
    count: int, total: int, times: int
) -> None:
    count = min(count, total)
    low, high = plausible_shares(count, total, ALARM)
    lower, higher = plausible_shares(count * times, total * times, ALARM)
    assert low <= lower
    assert higher <= high
