"""A step of a flow: a Prefect task, or a plain call at a terminal without a server.

Either way it is retried after transient errors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

from prefect_linkerd.mesh.errors import ApiError, ChartError, ReleaseError
from prefect_linkerd.tasks.outside import Future, outside

if TYPE_CHECKING:
    from prefect import Task

P = ParamSpec("P")
R = TypeVar("R")

DELAYS = (2.0, 5.0, 15.0, 30.0)
"""Seconds before each retry."""


def is_transient(error: object) -> bool:
    """Whether an error may soon pass, such as an unreachable API server or repository.

    Invalid input, somebody else's object or a workload that does not come up fails at once: a
    retry would only wait again.
    """
    return isinstance(error, ApiError | ChartError | ReleaseError) and error.transient


class Step(Generic[P, R]):
    """A function that is shown as a step of a run.

    `run_name` may use parameters, as in `look at {source}`.
    """

    def __init__(self, fn: Callable[P, R], name: str, description: str, run_name: str) -> None:
        functools.update_wrapper(self, fn)
        self.fn, self.name, self.description, self.run_name = fn, name, description, run_name
        self.task: Task[P, R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return outside().call(self, *args, **kwargs)


def step(
    name: str, *, description: str, run_name: str | None = None
) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Turns a function into a step."""

    def decorate(fn: Callable[P, R]) -> Step[P, R]:
        return Step(fn, name, description, run_name or name)

    return decorate


def submit(step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
    """Starts a step in parallel; its `result()` waits for it."""
    return outside().submit(step, *args, **kwargs)
