"""Which generations of the probe exist during a change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.probe.generations import BEFORE, Generations

PHASES = st.lists(st.sampled_from(["spread", "switch", "drop", "data plane"]), max_size=12)


@given(PHASES)
def test_old_and_new_ask_each_other_in_every_phase_and_none_outlives_it(phases: list[str]) -> None:
    """Also when a phase is repeated."""
    generations = Generations().starting(BEFORE)
    names = {generations.names[0]}
    for phase in phases:
        before = generations.names
        assert len(before) == 1
        made = generations.next(phase)
        generations = generations.starting(phase)
        old, new = generations.names
        assert (old, new) == (before[0], made.name)
        assert set(generations.pairs) == {(old, old), (old, new), (new, old), (new, new)}
        assert new not in names
        names.add(new)
        assert [each.name for each in generations.older] == [old]
        generations = generations.ending_older()
        assert generations.newest == made
        assert generations.older == ()


@given(PHASES)
def test_a_generation_that_could_not_end_is_among_the_older_ones(phases: list[str]) -> None:
    generations = Generations().starting(BEFORE)
    for phase in phases:
        generations = generations.starting(phase)
    assert len(generations.older) == len(phases)
    assert len(generations.ending_older().living) == 1


def test_names_are_those_of_objects() -> None:
    assert Generations().starting(BEFORE).starting("data plane").names == (
        "0-before",
        "1-data-plane",
    )
