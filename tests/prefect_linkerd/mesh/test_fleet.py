"""The order in which a fleet's meshes have their turn, whatever the outcome of each."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.fleet import FleetOptions, FleetPlan, MeshOutcome, plan_fleet

NAMES = st.lists(st.sampled_from("abcdefghij"), unique=True, min_size=1)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[FleetPlan, FleetOptions]:
    meshes = draw(NAMES)
    options = FleetOptions(
        canaries=draw(st.lists(st.sampled_from(meshes), unique=True)),
        at_once=draw(st.integers(1, 4)),
        max_failures=draw(st.integers(0, 3)),
    )
    return plan_fleet(meshes, meshes, options), options


@given(fleets(), st.sets(st.sampled_from("abcdefghij")), st.randoms())
def test_no_mesh_begins_before_its_turn_nor_after_too_many_failed(
    fleet: tuple[FleetPlan, FleetOptions], bad: Collection[str], chance: Random
) -> None:
    plan, options = fleet
    outcomes: dict[str, MeshOutcome] = {}
    begun: list[str] = []
    while (starting := plan.upcoming(outcomes)) or "running" in outcomes.values():
        failed = {m for m, outcome in outcomes.items() if outcome == "failed"}
        if starting:
            assert len(failed) <= options.max_failures
            assert not failed & set(options.canaries)
        for mesh in starting:
            assert mesh not in begun
            if mesh not in options.canaries:
                assert all(outcomes[canary] == "succeeded" for canary in options.canaries)
            begun.append(mesh)
            outcomes[mesh] = "running"
        running = [m for m, outcome in outcomes.items() if outcome == "running"]
        assert 0 < len(running) <= options.at_once
        ended = chance.choice(running)
        outcomes[ended] = "failed" if ended in bad else "succeeded"
    # Unless it was stopped, every mesh has had its turn.
    assert plan.is_stopped(outcomes) or set(begun) == set(plan.meshes)


def test_the_meshes_are_all_that_are_saved_or_those_that_are_named() -> None:
    everyone = plan_fleet({"b", "a", "c"}, [], FleetOptions(canaries=["c"]))
    assert everyone.waves == (("c",), ("a", "b"))
    assert plan_fleet({"a", "b"}, ["b", "a", "b"], FleetOptions()).waves == (("b", "a"),)
    assert plan_fleet({"a", "b"}, ["b"], FleetOptions(canaries=["b"])).waves == (("b",),)


@pytest.mark.parametrize(
    ("saved", "meshes", "canaries", "found"),
    [
        ([], [], [], "no saved mesh"),
        (["a"], ["a", "strange"], [], "strange"),
        (["a", "b"], ["a"], ["b"], "b"),
    ],
)
def test_a_mesh_that_is_not_there_is_named(
    saved: list[str], meshes: list[str], canaries: list[str], found: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_fleet(saved, meshes, FleetOptions(canaries=canaries))
    assert caught.value.found == found


def test_a_canary_is_named_once() -> None:
    with pytest.raises(ValidationError, match="name each once"):
        FleetOptions(canaries=["a", "a"])


def test_when_only_canaries_are_chosen_a_failure_still_stops() -> None:
    plan = plan_fleet({"a", "b"}, [], FleetOptions(canaries=["a", "b"], max_failures=1))
    assert plan.upcoming({"a": "failed"}) == ()
