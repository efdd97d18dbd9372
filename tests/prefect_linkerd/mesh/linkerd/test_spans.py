"""Spans of versions agree with the table that they are made from."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.linkerd.facts import ReleaseFacts, first_versions, release_facts
from prefect_linkerd.mesh.linkerd.spans import ALL_VERSIONS, Versions, versions_where
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion

SWITCHES = [field.name for field in fields(ReleaseFacts) if field.type == "bool"]

versions = st.one_of(
    st.sampled_from([*first_versions("stable"), *first_versions("edge")]),
    st.tuples(st.just(2), st.integers(11, 14), st.integers(0, 20)).map(
        lambda numbers: LinkerdVersion("stable", numbers)
    ),
    st.tuples(st.integers(24, 30), st.integers(1, 12), st.integers(1, 9)).map(
        lambda numbers: LinkerdVersion("edge", numbers)
    ),
)


def span_of(switch: str, *, value: bool) -> Versions | None:
    """The versions in which a fact has this value; None if they are not one span."""
    try:
        return versions_where(lambda facts: getattr(facts, switch) is value)
    except ValueError:
        return None


@settings(deadline=None)
@given(st.sampled_from(SWITCHES), st.booleans(), versions)
def test_a_span_has_the_versions_whose_facts_are_so(
    switch: str, value: bool, version: LinkerdVersion
) -> None:
    span = span_of(switch, value=value)
    assert span is not None or not value
    if span is not None:
        assert (version in span) == (getattr(release_facts(version), switch) is value)


@pytest.mark.parametrize(
    ("since", "until", "edges", "text"),
    [
        (None, None, (None, None), "all"),
        ((2, 12), None, (None, None), "2.12 and newer"),
        ((2, 13), None, ((23, 3, 4), None), "2.13 and newer, edges from 23.3.4"),
        (None, (2, 12), (None, (23, 3, 4)), "2.11 to 2.12, edges before 23.3.4"),
        (None, (2, 12, 1), (None, None), "2.11 to 2.12.1"),
        ((2, 11, 2), (2, 11), (None, None), "2.11 from 2.11.2 on"),
        (None, None, (None, (25, 10, 1)), "2.11 to 2.14, edges before 25.10.1"),
        (
            (2, 13),
            None,
            ((23, 3, 4), (24, 1, 1)),
            "2.13 to 2.14, edges from 23.3.4 before 24.1.1",
        ),
    ],
)
def test_how_a_span_is_written(
    since: tuple[int, ...] | None,
    until: tuple[int, ...] | None,
    edges: tuple[tuple[int, int, int] | None, tuple[int, int, int] | None],
    text: str,
) -> None:
    assert str(Versions(since, until, False, *edges)) == text


def test_what_is_no_span_is_refused() -> None:
    with pytest.raises(ValueError, match="no span"):
        versions_where(lambda facts: facts.series > 99)
    with pytest.raises(ValueError, match="more than once"):
        versions_where(lambda facts: facts.series % 2 == 0)


def test_checks_name_no_versions_of_their_own() -> None:
    switches = [*SWITCHES, "has_one_chart"]
    known = {span_of(switch, value=value) for switch in switches for value in (True, False)}
    jaeger = versions_where(lambda facts: "linkerd-jaeger" in facts.extensions)
    checks = [check for category in CATEGORIES for check in category.checks]
    assert {check.versions for check in checks} <= {ALL_VERSIONS, *known, jaeger}
