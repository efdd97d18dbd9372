"""When proxies should have renewed on their own, and which are asked first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.records.rotation import RotationClaim, RotationRecord
from prefect_linkerd.mesh.restarts import DataPlane
from prefect_linkerd.mesh.rotation import run
from prefect_linkerd.mesh.rotation.leaves import IssuerLoad
from prefect_linkerd.mesh.rotation.pace import RENEWS_AT, LeafTimes
from prefect_linkerd.mesh.rotation.renewals import (
    FIRST,
    all_renewed_at,
    may_have_renewed,
    queried_first,
    renews_at,
)
from prefect_linkerd.mesh.rotation.run import Rotation
from prefect_linkerd.mesh.rotation.snapshot import RotationSnapshot
from prefect_linkerd.mesh.rotation.trust_bundle import TrustBundle
from prefect_linkerd.mesh.snapshot.mesh import Pod, pod_of
from tests.support.meshes import quiet

SINCE = datetime(2026, 5, 4, 12, tzinfo=UTC)
STEP = timedelta(minutes=14)


def after(minutes: float) -> datetime:
    return SINCE + timedelta(minutes=minutes)


def pod(name: str, started: datetime | None) -> Pod:
    found = pod_of(
        {
            "metadata": {"namespace": "app", "name": name, "uid": name},
            "spec": {"containers": [{"name": "linkerd-proxy"}]},
        }
    )
    return replace(found, started=started)


@pytest.mark.parametrize(
    ("started", "issued", "expected"),
    [
        # It has renewed twice since it started and renews again after nine minutes.
        (after(-33), None, after(9)),
        (after(-14), None, after(0)),
        (after(-13), None, after(1)),
        (after(2), None, after(2)),
        # Its own answer is more reliable than an estimate from its start.
        (after(-33), after(-3), after(11)),
        (None, after(-3), after(11)),
        (after(-33), after(3), after(3)),
        # It is overdue and keeps retrying.
        (after(-33), after(-20), after(0)),
        # Nothing is known.
        (None, None, after(14)),
        # Clocks differ.
        (after(60), None, after(14)),
    ],
)
def test_a_proxy_renews_in_equal_steps(
    started: datetime | None, issued: datetime | None, expected: datetime
) -> None:
    assert renews_at(started, issued, SINCE, STEP) == expected


MINUTES = st.floats(-5_000, 5_000) | st.none()


@given(MINUTES, MINUTES, st.floats(0, 2_000))
def test_a_proxy_is_expected_to_renew_within_one_step(
    started: float | None, issued: float | None, step: float
) -> None:
    every = timedelta(minutes=step)
    moments = [after(each) if each is not None else None for each in (started, issued)]
    assert SINCE <= renews_at(moments[0], moments[1], SINCE, every) <= SINCE + every


def test_the_last_of_all_is_waited_for() -> None:
    pods = [pod("a", after(-33)), pod("b", after(-13)), pod("c", after(-20))]
    assert all_renewed_at(pods, {}, SINCE, STEP) == after(9)
    assert all_renewed_at(pods, {"b": after(-1)}, SINCE, STEP) == after(13)
    assert all_renewed_at([], {}, SINCE, STEP) == SINCE


def test_few_are_asked_first_and_those_are_the_last_to_renew() -> None:
    # The older a certificate is, the sooner it is renewed.
    pods = [pod(f"{age:02}", after(-age / 4)) for age in range(1, 3 * FIRST)]
    found = queried_first(pods, {}, (), SINCE, STEP)
    assert [each.name for each in found] == [f"{age:02}" for age in range(1, FIRST + 1)]


def test_who_gives_no_answer_is_asked_last() -> None:
    pods = [pod(f"{age:02}", after(-age / 4)) for age in range(1, FIRST + 2)]
    found = queried_first(pods, {}, {"01", "02"}, SINCE, STEP)
    assert [each.name for each in found] == [*(f"{age:02}" for age in range(3, FIRST + 2)), "01"]
    assert queried_first(pods[:1], {}, {"01", "02"}, SINCE, STEP) == (pods[0],)


def test_who_has_said_that_it_renews_later_is_not_asked_before() -> None:
    pods = [pod("known", after(-33)), pod("unknown", after(-33)), pod("overdue", after(-33))]
    issued = {"known": after(-9), "overdue": after(-40)}

    def asked(minutes: float) -> list[str]:
        found = may_have_renewed(pods, issued, SINCE, STEP, after(minutes))
        return [each.name for each in found]

    assert asked(4.9) == ["unknown", "overdue"]
    assert asked(5) == ["known", "unknown", "overdue"]


class Clock:
    """Time that passes only during waits."""

    def __init__(self) -> None:
        self.now = after(1)

    def clock(self) -> datetime:
        return self.now

    def polls(self, seconds: float, *, every: float | Callable[[], float]) -> Iterator[bool]:
        end = self.now + timedelta(seconds=seconds)
        while True:
            is_last = self.now >= end
            yield is_last
            if is_last:
                return
            pause = every() if callable(every) else every
            self.now = min(self.now + timedelta(seconds=pause), end)


class Renewing(Rotation):
    """A gentle rotation in `switch`, whose proxies renew at `renewals`; `asked` has UIDs."""

    def __init__(self, clock: Clock, renewals: Mapping[str, datetime], pods: Sequence[Pod]) -> None:
        self._mesh = Mesh(cast("Cluster", clock), MeshConfig(name="test"))
        self._claim = cast("RotationClaim", SimpleNamespace(check=lambda: None))
        self._issued: dict[str, datetime] = {}
        self._seen: tuple[float, DataPlane | None] = (0.0, None)
        self.probe = Probe()
        self.clock, self.renewals, self.pods = clock, renewals, pods
        self.asked: list[tuple[str, ...]] = []

    @property
    def record(self) -> RotationRecord:
        since = SINCE.isoformat()
        return RotationRecord("new", "old", "", "switch", since, signing_since=since)

    def read(self, data_plane: DataPlane | None = None) -> RotationSnapshot:
        plane = data_plane or DataPlane("linkerd", frozenset(), tuple(self.pods), {}, ())
        bundle = TrustBundle("", None, "release", None, "")
        load = IssuerLoad(None)
        return RotationSnapshot("new", bundle, plane, None, "new", load, signing_since=SINCE)

    def _ask(self, snapshot: RotationSnapshot, pods: Sequence[Pod]) -> frozenset[str]:
        assert snapshot.loaded_since == SINCE
        self.asked.append(tuple(each.uid for each in pods))
        for uid in self.asked[-1]:
            if uid in self.renewals:
                at = self.renewals[uid]
                before = min(at - STEP, SINCE - timedelta(seconds=1))
                self._issued[uid] = at if at <= self.clock.now else before
        return frozenset(self.asked[-1]) - self.renewals.keys()

    def late(self) -> list[str]:
        times = LeafTimes(STEP / RENEWS_AT, timedelta())
        return [each.uid for each in self._await_renewals(times, quiet)]


AGES = [1 + age / 3 for age in range(3 * FIRST)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(run, "polls", made.polls)
    return made


def renewing(clock: Clock, delay: timedelta, **others: datetime) -> Renewing:
    """Proxies of different ages that renew later, by `delay`, than their start suggests."""
    pods = [pod(f"{number:02}", after(-age)) for number, age in enumerate(AGES)]
    due = {each.uid: renews_at(each.started, None, SINCE, STEP) + delay for each in pods}
    pods += [pod(name, after(-13)) for name in others]
    return Renewing(clock, due | others, pods)


def test_each_proxy_is_asked_once_where_all_renew_in_time(clock: Clock) -> None:
    rotation = renewing(clock, timedelta())
    assert rotation.late() == []
    assert [len(each) for each in rotation.asked] == [FIRST, len(AGES) - FIRST]
    assert clock.now == max(rotation.renewals.values())


def test_nobody_else_is_asked_before_the_first_ones_have_renewed(clock: Clock) -> None:
    # Each proxy started half a minute after its pod.
    rotation = renewing(clock, timedelta(seconds=30))
    assert rotation.late() == []
    first, again, rest = rotation.asked
    assert len(first) == len(again) == FIRST
    assert {"00", "01"} == {*first} & {*again}
    assert {*first, *again, *rest} == rotation.renewals.keys()
    # The two that had not renewed yet have shown when they will.
    assert clock.now == max(rotation.renewals.values())


def test_who_does_not_renew_is_named_once_the_time_is_over(clock: Clock) -> None:
    never = after(10_000)
    rotation = renewing(clock, timedelta(), never=never)
    assert rotation.late() == ["never"]
    others = [uid for asked in rotation.asked[2:] for uid in asked if uid != "never"]
    assert others == []
    assert clock.now == after(14) + LeafTimes(STEP / RENEWS_AT, timedelta()).grace


def test_who_gives_no_answer_does_not_hold_up_the_others(clock: Clock) -> None:
    rotation = renewing(clock, timedelta())
    pods = [pod(f"silent {number}", after(0)) for number in range(FIRST)]
    rotation.pods = [*rotation.pods, *(replace(each, started=None) for each in pods)]
    assert sorted(rotation.late()) == sorted(each.uid for each in pods)
    assert rotation.asked[0] == tuple(sorted(each.uid for each in pods))
    assert {*rotation.asked[1], *rotation.asked[2]} >= rotation.renewals.keys()
    assert {uid for asked in rotation.asked[3:] for uid in asked}.isdisjoint(rotation.renewals)
