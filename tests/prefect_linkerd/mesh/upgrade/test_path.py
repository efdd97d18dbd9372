"""Which version may follow which, which one a policy selects, and when a window is open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_linkerd.mesh.config.model import MaintenanceWindow, UpgradePolicy
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.upgrade.path import newest_hop, path_problem, wants

V = LinkerdVersion.parse
STABLE = st.builds(
    lambda minor, patch: LinkerdVersion("stable", (2, minor, patch)),
    st.integers(11, 14),
    st.integers(0, 12),
)
EDGE = st.builds(
    lambda year, month, number: LinkerdVersion("edge", (year, month, number)),
    st.integers(24, 26),
    st.integers(1, 12),
    st.integers(1, 5),
)
VERSIONS = st.one_of(STABLE, EDGE)


@pytest.mark.parametrize(
    ("current", "target", "reason"),
    [
        ("stable-2.11.5", "stable-2.12.6", None),
        ("stable-2.12.0", "stable-2.12.6", None),
        ("stable-2.14.10", "edge-26.8.3", None),
        ("edge-25.4.4", "edge-26.8.3", None),
        ("stable-2.11.5", "stable-2.13.7", "it skips stable-2.12:"),
        ("stable-2.12.6", "edge-26.8.3", "it skips stable-2.13, stable-2.14:"),
        ("stable-2.12.6", "stable-2.11.5", "a downgrade"),
        ("edge-26.8.3", "edge-25.4.4", "a downgrade"),
        ("edge-25.4.4", "stable-2.14.10", "no way back from edge"),
    ],
)
def test_paths(current: str, target: str, reason: str | None) -> None:
    refusal = path_problem(V(current), V(target))
    assert (refusal is None) == (reason is None)
    if refusal and reason:
        assert reason in refusal[0]


@settings(deadline=None)
@given(VERSIONS, VERSIONS)
def test_never_back_and_never_over_a_minor(current: LinkerdVersion, target: LinkerdVersion) -> None:
    if path_problem(current, target) is None:
        assert target >= current
        if current.channel == target.channel == "stable":
            assert target.numbers[1] - current.numbers[1] <= 1
        if current.channel != target.channel:
            assert current.numbers[:2] == (2, 14)


@settings(deadline=None)
@given(VERSIONS, st.lists(VERSIONS, max_size=8), st.sampled_from([None, "stable", "edge"]))
def test_what_is_chosen_can_be_reached_and_is_wanted(
    current: LinkerdVersion, released: list[LinkerdVersion], channel: str | None
) -> None:
    policy = UpgradePolicy.model_validate({"channel": channel})
    try:
        chosen = newest_hop(policy, current, released)
    except InvalidInput:
        return
    assert chosen == current or chosen in released
    assert path_problem(current, chosen) is None


def test_stable_minors_lead_to_edge() -> None:
    released = list(map(V, ["stable-2.12.6", "stable-2.13.7", "stable-2.14.10", "edge-26.8.3"]))
    policy = UpgradePolicy(channel="edge")
    current, passed = V("stable-2.11.5"), []
    while (following := newest_hop(policy, current, released)) != current:
        passed.append(str(following))
        current = following
    assert passed == list(map(str, released))


def test_a_constraint_bounds_the_versions() -> None:
    policy = UpgradePolicy(constraint=">=2.12 <2.14")
    assert wants(policy, V("stable-2.12.6"), V("stable-2.13.7"))
    assert not wants(policy, V("stable-2.12.6"), V("stable-2.14.10"))
    assert not wants(policy, V("stable-2.12.6"), V("edge-26.8.3"))
    with pytest.raises(ValidationError, match="is not a constraint"):
        UpgradePolicy(constraint="about 2.14")


def test_a_gap_in_the_releases_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"skips stable-2\.12"):
        newest_hop(UpgradePolicy(), V("stable-2.11.5"), [V("stable-2.14.10")])


# Tuesdays at 02:00 in Berlin, which is one hour ahead of UTC in November.
WINDOW = MaintenanceWindow(cron="0 2 * * 2", duration_minutes=90, timezone="Europe/Berlin")


@pytest.mark.parametrize(
    ("now", "opening"),
    [
        ("2026-11-24T00:59", "2026-11-24T01:00"),
        ("2026-11-24T01:00", "2026-11-24T01:00"),
        ("2026-11-24T02:29", "2026-11-24T01:00"),
        ("2026-11-24T02:30", "2026-12-01T01:00"),
        # Two hours ahead in summer.
        ("2026-07-06T12:00", "2026-07-07T00:00"),
    ],
)
def test_windows_open_and_shut(now: str, opening: str) -> None:
    moment, expected = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (now, opening))
    assert WINDOW.opening(moment) == expected


# When clocks change (UTC): by an hour, by half an hour, at midnight, and never.
ZONES = {
    "Europe/Berlin": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00"],
    "Australia/Lord_Howe": ["2026-04-04T15:00", "2026-10-03T15:30"],
    "America/Santiago": ["2026-04-05T03:00", "2026-09-06T04:00"],
    "Asia/Kolkata": ["2026-06-01T00:00"],
}
MOMENTS = st.sampled_from([(zone, when) for zone, whens in ZONES.items() for when in whens])


@settings(deadline=None, max_examples=300)
@given(
    MOMENTS,
    st.integers(-120, 120) | st.integers(-2 * 24 * 60, 2 * 24 * 60),
    st.integers(0, 3),
    st.sampled_from([0, 15, 30, 45]),
    st.sampled_from(["*", "0", "0,3"]),
    st.integers(5, 300),
)
def test_a_window_opens_by_its_own_clock_whatever_clocks_are_set_to(
    moment: tuple[str, str], minutes: int, hour: int, minute: int, day: str, duration: int
) -> None:
    zone = ZoneInfo(moment[0])
    now = datetime.fromisoformat(moment[1]).replace(tzinfo=UTC) + timedelta(minutes=minutes)
    window = MaintenanceWindow(
        cron=f"{minute} {hour} * * {day}", duration_minutes=duration, timezone=moment[0]
    )
    opening = window.opening(now)

    def wanted(when: datetime) -> bool:
        local = when.astimezone(zone)
        is_day = day == "*" or str(local.isoweekday() % 7) in day.split(",")
        # Of a time that occurs twice the first one counts.
        return is_day and (local.hour, local.minute, local.fold) == (hour, minute, 0)

    def is_after_a_gap(when: datetime) -> bool:
        before = (when - timedelta(minutes=1)).astimezone(zone)
        return before.utcoffset() != when.astimezone(zone).utcoffset()

    assert wanted(opening) or is_after_a_gap(opening)
    # It is open now, or no earlier opening is still open or comes before this one.
    first = now - timedelta(minutes=duration - 1)
    assert opening >= first
    between = range(int((opening - first) / timedelta(minutes=1)))
    missed = [when for m in between if wanted(when := first + timedelta(minutes=m))]
    assert opening <= now or not missed
    # Of two overlapping openings the last one counts.
    later = range(1, int((now - opening) / timedelta(minutes=1)) + 1)
    assert not [m for m in later if wanted(opening + timedelta(minutes=m))]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cron", "sometimes", "is not a cron expression"),
        ("timezone", "Berlin", "is not a time zone"),
    ],
)
def test_a_window_that_cannot_be_is_refused(field: str, value: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MaintenanceWindow.model_validate({field: value})
