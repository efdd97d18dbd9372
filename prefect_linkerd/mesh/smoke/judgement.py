"""Judges measured traffic: pure functions that list everything wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prefect_linkerd.mesh.chance import is_plausible, plausible_counts
from prefect_linkerd.mesh.load.program import Traffic


def judge_success(traffic: Traffic, least: float) -> list[str]:
    """Checks that enough requests succeeded."""
    if traffic.sent == 0:
        return ["no request was sent"]
    if traffic.success_rate >= least:
        return []
    causes = ", ".join(f"{count} {name}" for name, count in sorted(traffic.errors.items()))
    return [
        f"{traffic.success_rate:.2%} of {traffic.sent} requests succeeded, "
        f"at least {least:.2%} should ({causes})"
    ]


def judge_latency(traffic: Traffic, most_p99_ms: float | None) -> list[str]:
    p99 = traffic.latency_ms.get("p99")
    if most_p99_ms is None or p99 is None or p99 <= most_p99_ms:
        return []
    return [f"the 99th percentile is {p99:.1f} ms, at most {most_p99_ms:.1f} ms is allowed"]


def judge_identity(traffic: Traffic) -> list[str]:
    """Checks that every answered request came over mTLS, by what the backends' proxies saw."""
    plain = traffic.clients.get("", 0)
    if not plain:
        return []
    return [
        f"{plain} of {sum(traffic.clients.values())} answers came without mTLS: "
        "the client or the backend has no working proxy"
    ]


def judge_spread(traffic: Traffic, backend: str, replicas: int, least: float) -> list[str]:
    """Checks that the requests to a Service were spread over its replicas, request by request.

    Linkerd balances by the latency it sees (peak EWMA, the better of two chosen at random), so
    shares do not follow a binomial distribution: each replica has to get `least` of its even share.
    Several replicas answering the same connection tells Linkerd from kube-proxy, which balances
    connections.
    """
    answered = _by_replica(traffic, backend)
    problems: list[str] = []
    if len(answered) != replicas:
        problems.append(f"{len(answered)} of {replicas} replicas answered")
    floor = least * sum(answered.values()) / replicas
    problems += [
        f"replica {name} answered {count} of {sum(answered.values())} requests, "
        f"at least {floor:.0f} expected"
        for name, count in answered.items()
        if count < floor
    ]
    if not traffic.mixed_connections:
        problems.append(
            f"each of {traffic.connections} connections was answered by one replica only: "
            "requests are not balanced by a proxy"
        )
    return problems


def spread_of(traffic: Traffic, backend: str) -> str:
    """How many requests each replica answered, ordered by name."""
    return ", ".join(map(str, _by_replica(traffic, backend).values())) or "no replica answered"


def _by_replica(traffic: Traffic, backend: str) -> dict[str, int]:
    """The number of answers by replica, ordered by name."""
    counts = traffic.backends.get(backend, {})
    return {name: sum(counts[name]) for name in sorted(counts)}


def judge_split(traffic: Traffic, weights: Mapping[str, int], false_alarm: float) -> list[str]:
    """Checks that each backend got its share, within what chance allows.

    Args:
        weights: percent by backend.
    """
    total = sum(traffic.answered(backend) for backend in traffic.backends)
    problems = [
        f"{backend} answered, but is not part of the split"
        for backend in sorted(traffic.backends)
        if backend not in weights
    ]
    if not total:
        return [*problems, "no backend answered"]
    for backend, weight in weights.items():
        count = traffic.answered(backend)
        if not is_plausible(count, total, weight / 100, false_alarm):
            low, high = plausible_counts(total, weight / 100, false_alarm)
            expected = f"{low} to {high} are plausible" if low < high else f"{low} expected"
            problems.append(
                f"{backend} answered {count} of {total} requests ({count / total:.1%}) at weight "
                f"{weight}: {expected}"
            )
    return problems


def judge_canary(
    traffic: Traffic, canary: str, success_rate: float, latency_p99_ms: float | None
) -> list[str]:
    """The health gate of one step: everything that blocks the next step.

    A canary that answered nothing has proved nothing, so it gets no more traffic.
    """
    answered, failed = traffic.answered(canary), traffic.failed(canary)
    if not answered:
        return [f"{canary} answered none of {traffic.sent} requests", *_unanswered(traffic)]
    problems = [*judge_latency(traffic, latency_p99_ms), *_unanswered(traffic)]
    if (rate := (answered - failed) / answered) < success_rate:
        problems.append(
            f"{failed} of {answered} requests to {canary} failed: "
            f"{rate:.2%} succeeded, at least {success_rate:.2%} should"
        )
    return problems or judge_success(traffic, success_rate)


def _unanswered(traffic: Traffic) -> list[str]:
    lost = traffic.sent - sum(traffic.answered(backend) for backend in traffic.backends)
    if not lost:
        return []
    causes = ", ".join(f"{count} {name}" for name, count in sorted(traffic.errors.items()))
    return [f"no backend answered {lost} of {traffic.sent} requests ({causes})"]


def judge_faults(
    traffic: Traffic, faulty: str, percent: int, false_alarm: float, success_rate: float
) -> list[str]:
    """Checks that the injected share of requests failed, and no others."""
    total = sum(traffic.answered(backend) for backend in traffic.backends)
    problems = judge_split(
        traffic,
        {faulty: percent, **{b: 100 - percent for b in traffic.backends if b != faulty}},
        false_alarm,
    )
    lost = traffic.sent - total
    others = total - traffic.answered(faulty)
    failed = sum(traffic.failed(backend) for backend in traffic.backends if backend != faulty)
    if others and (others - failed) / others < success_rate:
        problems.append(f"{failed} of {others} requests failed where no fault was injected")
    if traffic.answered(faulty) and traffic.failed(faulty) < traffic.answered(faulty):
        problems.append(f"{faulty} answered some requests successfully, but should always fail")
    if lost > (1 - success_rate) * traffic.sent:
        problems += _unanswered(traffic)
    return problems


@dataclass(frozen=True)
class Shift:
    """What to do with a canary next: shift to a weight, finish, or send all traffic back."""

    action: Literal["go", "done", "back"]
    weight: int


def next_shift(weights: Sequence[int], weight: int, problems: Sequence[str]) -> Shift:
    """Moves a canary through rising weights while nothing blocks it, otherwise back to 0.

    Args:
        weight: the current one; 0 before the first step.
        problems: what the health gate found at the current weight.
    """
    if problems:
        return Shift("back", 0)
    following = [step for step in weights if step > weight]
    return Shift("go", following[0]) if following else Shift("done", weight)
