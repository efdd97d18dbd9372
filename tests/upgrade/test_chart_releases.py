"""What a repository has new: a pure function of what was known and what the index says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.chart_releases import Answer, Known, new_releases, read_repository, released
from mesh.charts import ChartName, Entry
from mesh.errors import ChartError

NUMBERS = [f"26.{month}.{number}" for month in range(1, 9) for number in (1, 2)]


def index(*numbers: str) -> Answer:
    names: tuple[ChartName, ...] = ("linkerd-crds", "linkerd-control-plane")
    return Answer("e", {n: [Entry(f"20{v}", f"edge-{v}", "u") for v in numbers] for n in names})


def versions(answer: Answer, known: Known | None) -> tuple[set[str], Known]:
    new, after = new_releases(known, answer, "https://charts.example.com")
    return {str(release.version).removeprefix("edge-") for release in new}, after


@settings(deadline=None)
@given(st.lists(st.sets(st.sampled_from(NUMBERS), min_size=1), min_size=1, max_size=6))
def test_every_release_is_announced_once(looks: list[set[str]]) -> None:
    announced: list[str] = []
    known: Known | None = None
    for numbers in looks:
        try:
            new, known = versions(index(*numbers), known)
        except ChartError:
            continue
        announced += new
        assert versions(index(*numbers), known) == (set(), known)
    assert len(announced) == len(set(announced))
    assert not set(announced) & looks[0]


def test_the_first_look_only_takes_note() -> None:
    new, known = versions(index("26.1.1"), None)
    assert (new, known) == (set(), Known("e", frozenset({"edge-26.1.1"})))
    assert versions(index("26.1.1", "26.1.2"), known)[0] == {"26.1.2"}
    # Not modified.
    assert versions(Answer("e", None), known) == (set(), known)


@pytest.mark.parametrize("numbers", [(), ("26.8.1",)])
def test_an_index_that_lost_everything_is_broken(numbers: tuple[str, ...]) -> None:
    with pytest.raises(ChartError, match="none"):
        versions(index(*numbers), Known("", frozenset({"edge-26.1.1"})))


def test_a_release_needs_all_its_charts() -> None:
    control_plane = [Entry("1.16.11", "stable-2.14.10", "u"), Entry("2026.1.1", "", "u")]
    assert released({"linkerd-control-plane": control_plane}) == []
    crds = [Entry("1.8.0", "", "u"), Entry("2026.1.1", "", "u")]
    found = released({"linkerd-control-plane": control_plane, "linkerd-crds": crds})
    assert [str(release.version) for release in found] == ["stable-2.14.10", "edge-26.1.1"]
    assert found[0].charts == (("linkerd-crds", "1.8.0"), ("linkerd-control-plane", "1.16.11"))


def test_a_folder_is_a_repository(charts_dir: Path) -> None:
    entries = read_repository(str(charts_dir / "stable"), None).entries
    assert entries is not None
    found = [str(release.version) for release in released(entries)]
    assert found == ["stable-2.11.5", "stable-2.12.6", "stable-2.13.7", "stable-2.14.10"]
