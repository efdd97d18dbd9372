"""How a bootstrap's stages follow each other: once a step's result is up, not once it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from prefect_linkerd.cli.at_terminal import AtTerminal
from prefect_linkerd.mesh.errors import NotReady
from prefect_linkerd.tasks import bootstrap
from prefect_linkerd.tasks.outside import within
from prefect_linkerd.tasks.step import Step

LONG = 60.0


class Run:
    """A bootstrap with one step per stage; `up` has the steps whose result can be up early."""

    def __init__(self, steps: Mapping[str, Callable[[], object]], up: dict[str, bool]) -> None:
        self.stages = tuple((name,) for name in steps)
        self.steps = steps
        self._up = up

    def first_install(self, step: str) -> Seen | None:
        return Seen(self._up[step]) if step in self._up else None


class Seen:
    def __init__(self, is_up: bool) -> None:
        self._is_up = is_up

    def is_up(self) -> bool:
        return self._is_up


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    def step_of(run: Run, name: str) -> tuple[Step[..., Any], tuple[Any, ...]]:
        return Step(run.steps[name], name, name, name), ()

    monkeypatch.setattr(bootstrap, "_step_of", step_of)
    with within(AtTerminal("bootstrap")):
        yield


def install(steps: Mapping[str, Callable[[], object]], up: dict[str, bool]) -> None:
    run: Any = Run(steps, up)
    bootstrap.install(run)


def test_what_is_up_is_followed_before_its_end() -> None:
    follows = threading.Event()

    def early() -> None:
        assert follows.wait(LONG), "the next stage waited for the end"

    install({"early": early, "next": follows.set}, {"early": True})
    assert follows.is_set()


def test_what_is_not_seen_to_be_up_is_followed_after_its_end() -> None:
    done: list[str] = []

    def early() -> None:
        # Long enough for several looks.
        threading.Event().wait(4 * bootstrap.LOOK)
        done.append("early")

    install({"early": early, "next": lambda: done.append("next")}, {"early": False})
    assert done == ["early", "next"]


def test_a_stage_is_over_when_the_one_before_it_has_ended() -> None:
    done: list[str] = []
    follows = threading.Event()

    def early() -> None:
        assert follows.wait(LONG)
        threading.Event().wait(4 * bootstrap.LOOK)
        done.append("early")

    install(
        {"early": early, "next": follows.set, "last": lambda: done.append("last")}, {"early": True}
    )
    assert done == ["early", "last"]


def test_what_fails_after_it_was_up_stops_the_run() -> None:
    follows = threading.Event()
    done: list[str] = []

    def early() -> None:
        assert follows.wait(LONG)
        raise NotReady("a", expected="b", found="c", remedy="d")

    steps = {"early": early, "next": follows.set, "last": lambda: done.append("last")}
    with pytest.raises(NotReady):
        install(steps, {"early": True})
    assert done == []


def test_a_timeout_of_the_step_itself_is_its_failure() -> None:
    def early() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        install({"early": early}, {"early": False})
