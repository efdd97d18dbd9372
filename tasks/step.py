"""How a step of a flow behaves as a Prefect task: its retries, and that nothing of it is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture

from prefect_linkerd.mesh.errors import ApiError, ChartError, ReleaseError

P = ParamSpec("P")
R = TypeVar("R")


def is_passing(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a step failed by something that may be over soon: an API server or repository away.

    A wrong input, a foreign object or a workload that does not come up fails at once: the same
    step again would only wait again.
    """
    failure: Any = state.data
    error: Any = getattr(failure, "exception", failure)
    if error is None or not isinstance(error, BaseException):
        try:
            error = state.result(raise_on_failure=False)  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
        except Exception:
            return False
    return isinstance(error, ApiError | ChartError | ReleaseError) and error.transient


def step(
    name: str, *, description: str, run_name: str | None = None
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that is retried while the world fails for a moment.

    Inputs hold secrets and snapshots of a cluster are stale at once, so neither results nor
    cache keys of a step are ever stored.
    """
    return task(
        name=name,
        description=description,
        # Without one Prefect adds three random letters.
        task_run_name=run_name or name,
        retries=4,
        retry_delay_seconds=[2, 5, 15, 30],
        retry_condition_fn=is_passing,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def submit(task: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> PrefectFuture[R]:
    """Starts a step beside the others; its `result()` waits for it."""
    # Prefect's overloads lose the types of the parameters.
    return task.submit(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType]
