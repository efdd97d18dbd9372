"""What measured traffic means; chance is neither reported as a fault nor hides one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.load.program import Traffic
from prefect_linkerd.mesh.smoke.judgement import (
    Shift,
    judge_canary,
    judge_faults,
    judge_identity,
    judge_latency,
    judge_split,
    judge_spread,
    judge_success,
    next_shift,
    spread_of,
)

ALARM = 1e-6


def seen(mixed: int = 3, lost: int = 0, **backends: tuple[int, int]) -> Traffic:
    """Traffic by backend, as `(ok, failed)`; each backend has one replica."""
    ok = sum(counts[0] for counts in backends.values())
    failed = sum(counts[1] for counts in backends.values())
    errors = {"500": failed} if failed else {}
    return Traffic(
        sent=ok + failed + lost,
        ok=ok,
        connections=4,
        mixed_connections=mixed,
        backends={name: {"pod": list(counts)} for name, counts in backends.items()},
        errors=errors | ({"TimeoutError": lost} if lost else {}),
        clients={"id": ok + failed},
        latency_ms={"p50": 5.0, "p99": 20.0},
    )


@pytest.mark.parametrize("percent", [5, 25, 50])
def test_a_thousand_true_draws_raise_no_alarm(percent: int) -> None:
    draw = random.Random(7)  # noqa: S311 a test's own
    for _ in range(1000):
        canary = sum(draw.random() < percent / 100 for _ in range(600))
        split = seen(stable=(600 - canary, 0), canary=(canary, 0))
        assert judge_split(split, {"stable": 100 - percent, "canary": percent}, ALARM) == []


@pytest.mark.parametrize(("weight", "truth"), [(5, 25), (5, 0), (25, 50), (50, 25), (100, 99)])
def test_a_split_at_another_weight_is_found(weight: int, truth: int) -> None:
    split = seen(stable=(600 - 6 * truth, 0), canary=(6 * truth, 0))
    found = judge_split(split, {"stable": 100 - weight, "canary": weight}, ALARM)
    assert any("canary answered" in text and f"at weight {weight}" in text for text in found)


def test_a_backend_outside_the_split_and_no_answer_are_named() -> None:
    assert judge_split(seen(other=(9, 0)), {"stable": 100}, ALARM)[0].startswith("other answered")
    assert judge_split(Traffic(sent=9), {"stable": 100}, ALARM) == ["no backend answered"]


def test_success_latency_and_identity() -> None:
    assert judge_success(seen(stable=(99, 1)), 0.99) == []
    assert "98.00% of 100" in judge_success(seen(stable=(98, 2)), 0.99)[0]
    assert judge_success(Traffic(), 0.99) == ["no request was sent"]
    assert judge_latency(seen(), None) == judge_latency(seen(), 20.0) == []
    assert "20.0 ms" in judge_latency(seen(), 19.9)[0]
    assert judge_identity(Traffic(clients={"a": 10})) == []
    assert "3 of 10" in judge_identity(Traffic(clients={"a": 7, "": 3}))[0]


def spread(*counts: int, mixed: int = 4) -> Traffic:
    replicas = {f"pod-{n}": [count, 0] for n, count in enumerate(counts)}
    return Traffic(
        sent=sum(counts),
        ok=sum(counts),
        connections=4,
        mixed_connections=mixed,
        backends={"web": replicas},
    )


@pytest.mark.parametrize(
    ("traffic", "said"),
    [
        (spread(100, 110, 90), []),
        (spread(200, 60, 40), []),
        (spread(270, 20, 10), ["replica pod-1", "replica pod-2"]),
        (spread(150, 150), ["2 of 3 replicas"]),
        (spread(100, 100, 100, mixed=0), ["by one replica only"]),
        (Traffic(sent=5), ["0 of 3 replicas", "by one replica only"]),
    ],
)
def test_requests_are_spread_over_replicas(traffic: Traffic, said: list[str]) -> None:
    found = judge_spread(traffic, "web", 3, 0.3)
    assert len(found) == len(said)
    assert all(words in text for words, text in zip(said, found, strict=True))


def test_what_each_replica_answered_is_said_also_where_none_did() -> None:
    assert spread_of(spread(200, 60, 40), "web") == "200, 60, 40"
    # Every request failed before reaching a backend: still a result, not an exception.
    assert spread_of(Traffic(sent=5, errors={"503": 5}), "web") == "no replica answered"


@pytest.mark.parametrize(
    ("traffic", "said"),
    [
        (seen(stable=(95, 0), canary=(5, 0)), ""),
        (seen(stable=(95, 0), canary=(4, 1)), "1 of 5 requests to canary failed"),
        (seen(stable=(100, 0)), "canary answered none of 100"),
        (seen(stable=(90, 0), canary=(5, 0), lost=5), "no backend answered 5 of 100"),
        (seen(stable=(85, 10), canary=(5, 0)), "90.00% of 100 requests succeeded"),
    ],
)
def test_the_gate_of_a_canary(traffic: Traffic, said: str) -> None:
    found = judge_canary(traffic, "canary", 0.99, None)
    assert bool(found) is bool(said)
    assert said in " ".join(found)
    assert "99th percentile" in " ".join(judge_canary(traffic, "canary", 0.99, 1.0) or ["x"]) or (
        "answered none" in said
    )


@pytest.mark.parametrize(
    ("traffic", "said"),
    [
        (seen(healthy=(480, 0), faulty=(0, 120)), ""),
        (seen(healthy=(600, 0)), "faulty answered 0 of 600"),
        (seen(healthy=(300, 0), faulty=(0, 300)), "faulty answered 300 of 600"),
        (seen(healthy=(440, 40), faulty=(0, 120)), "where no fault was injected"),
        (seen(healthy=(480, 0), faulty=(20, 100)), "should always fail"),
        (seen(healthy=(480, 0), faulty=(0, 120), lost=50), "no backend answered 50"),
    ],
)
def test_the_injected_share_fails_and_no_other(traffic: Traffic, said: str) -> None:
    found = judge_faults(traffic, "faulty", 20, ALARM, 0.99)
    assert bool(found) is bool(said)
    assert said in " ".join(found)


weights_of = st.lists(st.integers(1, 99), unique=True, max_size=6).map(lambda w: [*sorted(w), 100])


@given(weights_of, st.integers(0, 10))
def test_a_canary_rises_step_by_step_to_the_end_or_loses_all_at_the_first_problem(
    weights: list[int], bad_at: int
) -> None:
    weight, walked = 0, list[int]()
    for turn in range(len(weights) + 1):
        shift = next_shift(weights, weight, ["unhealthy"] if turn == bad_at and turn else [])
        if shift.action != "go":
            break
        assert shift.weight > weight
        weight = shift.weight
        walked.append(weight)
    if 0 < bad_at <= len(weights):
        assert shift == Shift("back", 0)
        assert walked == weights[:bad_at]
    else:
        assert shift == Shift("done", 100)
        assert walked == weights
