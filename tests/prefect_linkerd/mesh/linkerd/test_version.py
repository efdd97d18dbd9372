"""Linkerd's version names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion

versions = st.one_of(
    st.tuples(st.just(2), st.integers(11, 14), st.integers(0, 30)).map(
        lambda n: LinkerdVersion("stable", n)
    ),
    st.tuples(st.integers(24, 40), st.integers(1, 12), st.integers(1, 9)).map(
        lambda n: LinkerdVersion("edge", n)
    ),
)


@given(versions)
def test_a_version_reads_back_as_written(version: LinkerdVersion) -> None:
    assert LinkerdVersion.parse(str(version)) == version


@given(versions, versions)
def test_versions_are_ordered_and_stable_comes_first(
    one: LinkerdVersion, other: LinkerdVersion
) -> None:
    assert (one < other) + (other < one) + (one == other) == 1
    if one.channel != other.channel:
        assert (one < other) == (one.channel == "stable")


@pytest.mark.parametrize(
    ("name", "charts", "jaeger"),
    [
        ("stable-2.11.5", ("linkerd2",), True),
        ("stable-2.12.6", ("linkerd-crds", "linkerd-control-plane"), True),
        ("stable-2.14.10", ("linkerd-crds", "linkerd-control-plane"), True),
        ("edge-25.4.4", ("linkerd-crds", "linkerd-control-plane"), True),
        ("edge-26.8.3", ("linkerd-crds", "linkerd-control-plane"), False),
    ],
)
def test_what_follows_from_a_version(name: str, charts: tuple[str, ...], jaeger: bool) -> None:
    facts = release_facts(LinkerdVersion.parse(name))
    assert (facts.charts, "linkerd-jaeger" in facts.extensions) == (charts, jaeger)


@given(st.text())
def test_nothing_else_is_a_version(text: str) -> None:
    try:
        version = LinkerdVersion.parse(text)
    except InvalidInput:
        return
    assert str(version).split("-")[1].split(".") == [
        str(int(n)) for n in text.strip().split("-")[1].split(".")
    ]
