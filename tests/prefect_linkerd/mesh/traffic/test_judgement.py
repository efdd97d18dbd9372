"""When a restart lowers the success rate, and when chance or earlier failures explain it."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.traffic.judgement import Before, Measured, Stream, in_percent, judge

WEB = Stream("Deployment/app/web")
API = Stream("Deployment/app/api")
CALL = Stream(API.to, WEB.to)

counts = st.builds(Measured, st.integers(0, 100_000), st.integers(0, 100_000), st.floats(0.1, 1000))
befores = st.builds(Before, counts, counts)
streams = st.sampled_from([WEB, API, CALL])
drops_allowed = st.floats(0.001, 0.5)


def of(succeeded: int, failed: int = 0) -> Measured:
    return Measured(succeeded, failed, 5.0)


def test_a_workload_that_answers_with_errors_since_its_restart_is_named_with_its_counts() -> None:
    before = {WEB: Before(of(9_990, 10), of(500)), API: Before(of(100_000), of(300))}
    (drop,) = judge(before, {WEB: of(300, 200), API: of(300)}, 0.01)
    assert drop.stream == WEB
    assert str(drop) == (
        "Deployment/app/web: 60% of 500 requests succeeded since the restart, "
        "99.9% of 10,000 requests succeeded before it, a drop of 39.9 percentage points"
    )


def test_the_worst_drop_comes_first() -> None:
    before = {stream: Before(of(100_000), of(1000)) for stream in (WEB, API, CALL)}
    after = {WEB: of(900, 100), API: of(0, 500), CALL: of(500, 500)}
    assert [drop.stream for drop in judge(before, after, 0.01)] == [API, CALL, WEB]


def test_a_few_failures_are_chance_and_many_are_not() -> None:
    before = {WEB: Before(of(100_000), of(500))}
    assert judge(before, {WEB: of(0, 2)}, 0.01) == ()
    assert judge(before, {WEB: of(0, 20)}, 0.01)
    # As much as is allowed, no matter how many requests.
    assert judge(before, {WEB: of(990_001, 9_999)}, 0.01) == ()
    assert judge(before, {WEB: of(970_000, 30_000)}, 0.01)


def test_a_workload_that_failed_already_is_not_held_against_its_restart() -> None:
    ill = {WEB: Before(of(1_000_000, 100), of(0, 300))}
    assert judge(ill, {WEB: of(0, 300)}, 0.01) == ()
    half = {WEB: Before(of(1_000_000), of(500, 500))}
    assert judge(half, {WEB: of(480, 520)}, 0.01) == ()
    assert judge(half, {WEB: of(0, 1000)}, 0.01)


@given(st.dictionaries(streams, befores), st.dictionaries(streams, counts), drops_allowed)
def test_only_a_drop_beyond_what_is_allowed_counts(
    before: dict[Stream, Before], after: dict[Stream, Measured], max_drop: float
) -> None:
    for drop in judge(before, after, max_drop):
        assert drop.after.total
        assert drop.before.total
        assert drop.points > 100 * max_drop
        assert drop.after == after[drop.stream]
        assert drop.before in (before[drop.stream].history, before[drop.stream].recent)


@given(st.dictionaries(streams, befores), drops_allowed)
def test_without_requests_before_or_after_nothing_is_judged(
    before: dict[Stream, Before], max_drop: float
) -> None:
    assert judge(before, {}, max_drop) == ()
    assert judge(before, dict.fromkeys(before, Measured(0, 0, 5.0)), max_drop) == ()
    silent = dict.fromkeys(before, Before())
    assert judge(silent, {stream: of(0, 1000) for stream in before}, max_drop) == ()


@given(befores, counts, st.integers(0, 10_000), drops_allowed)
def test_more_failures_never_turn_a_drop_into_none(
    before: Before, after: Measured, more: int, max_drop: float
) -> None:
    if judge({WEB: before}, {WEB: after}, max_drop):
        worse = Measured(after.succeeded, after.failed + more, after.seconds)
        assert judge({WEB: before}, {WEB: worse}, max_drop)


@given(befores, counts, drops_allowed, st.floats(0, 0.5))
def test_a_larger_allowance_finds_no_drop_that_a_smaller_one_does_not(
    before: Before, after: Measured, max_drop: float, more: float
) -> None:
    # Without bad last seconds, which would count only with the smaller allowance.
    before = Before(before.history, before.history)
    if judge({WEB: before}, {WEB: after}, max_drop + more):
        assert judge({WEB: before}, {WEB: after}, max_drop)


def test_a_thousand_restarts_that_change_nothing_raise_no_alarm() -> None:
    draw = random.Random(3)  # noqa: S311 a test's own

    def drawn(total: int) -> Measured:
        failed = sum(draw.random() < 0.03 for _ in range(total))
        return of(total - failed, failed)

    for _ in range(1000):
        before = {WEB: Before(drawn(200), drawn(60))}
        assert judge(before, {WEB: drawn(60)}, 0.001) == ()


def test_percent_are_never_rounded_up_to_all() -> None:
    assert in_percent(of(999_999, 1)) == "99.99% of 1,000,000 requests succeeded"
    assert in_percent(of(57, 43)) == "57% of 100 requests succeeded"
    assert in_percent(Measured()) == "no requests"
