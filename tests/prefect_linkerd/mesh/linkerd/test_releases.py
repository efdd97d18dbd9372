"""Which charts make up a release: upstream's table and the rules for other versions."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.releases import RELEASES, chart_version, release_of
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion


@pytest.mark.real_charts
def test_every_stable_release_is_known(shared_dir: Path) -> None:
    with (shared_dir / "reference/stable-charts.csv").open() as file:
        rows = {row.pop("linkerd"): row for row in csv.DictReader(file)}
    assert len(rows) == 26
    for name, charts in rows.items():
        release = LinkerdVersion.parse(name)
        assert {chart: chart_version(chart, release) for chart in charts} == charts


@pytest.mark.parametrize(
    ("release", "chart", "version"),
    [
        ("stable-2.11.0", "linkerd2", "2.11.0"),
        ("stable-2.11.5", "linkerd2", "2.11.5"),
        ("stable-2.11.3", "linkerd-viz", "2.11.3"),
        ("stable-2.11.3", "linkerd-jaeger", "2.11.3"),
        ("edge-23.1.1", "linkerd-crds", "1.4.0"),
        ("edge-23.12.4", "linkerd-control-plane", "1.18.3-edge"),
        ("edge-24.2.5", "linkerd-crds", "1.9.5-edge"),
        ("edge-24.3.1", "linkerd-crds", "2024.3.1"),
        ("edge-24.11.8", "linkerd-control-plane", "2024.11.8"),
        ("edge-26.8.3", "linkerd-viz", "2026.8.3"),
        ("stable-2.14.11", "linkerd-crds", None),
        ("edge-24.2.6", "linkerd-crds", None),
    ],
)
def test_the_rules(release: str, chart: str, version: str | None) -> None:
    assert chart_version(chart, LinkerdVersion.parse(release)) == version


edges = st.tuples(st.integers(24, 40), st.integers(4, 12), st.integers(1, 9)).map(
    lambda numbers: LinkerdVersion("edge", numbers)
)
one_chart = st.integers(0, 5).map(lambda patch: LinkerdVersion("stable", (2, 11, patch)))


@given(st.one_of(st.sampled_from(sorted(RELEASES)), edges, one_chart))
def test_a_control_planes_chart_tells_the_release(release: LinkerdVersion) -> None:
    chart = release_facts(release).control_plane_chart
    version = chart_version(chart, release)
    assert version is not None
    assert release_of(chart, version) == str(release)


def test_one_version_of_the_crds_serves_many_releases() -> None:
    assert release_of("linkerd-crds", "1.8.0") is None
    assert release_of("linkerd-control-plane", "9.9.9") is None
