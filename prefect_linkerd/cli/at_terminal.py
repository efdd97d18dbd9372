"""Replaces Prefect where there is no server: runs, retries, approves and interrupts steps.

Stores nothing: the result is printed at the end, and what a later run has to know is in the
cluster.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, ParamSpec, TypeVar, cast

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_chain,
    wait_fixed,
)

from prefect_linkerd.mesh.errors import InvalidInput, MeshError
from prefect_linkerd.mesh.report.events import Notice
from prefect_linkerd.tasks.outside import Bar, Ending, Future, Log
from prefect_linkerd.tasks.step import DELAYS, Step, is_transient

P = ParamSpec("P")
R = TypeVar("R")

LOGGER = logging.getLogger("prefect_linkerd.terminal")
"""Its records look like those of Prefect's loggers: `task_run_name`, `flow_name`, the wording."""

Ask = Callable[[str, str, float], bool | None]

PATIENCE = 30.0
"""Seconds that steps in other threads have to finish after Ctrl-C."""


class Interrupted(BaseException):
    """Ends a step in another thread after Ctrl-C."""


@dataclass(frozen=True)
class End:
    """How a step or flow ended. See `prefect_linkerd.tasks.outside.Ending`."""

    name: str | None
    message: str | None = None
    data: Any = None


_step: ContextVar[str] = ContextVar("step", default="")


def _nobody(_what: str, _plan: str, _seconds: float) -> bool | None:
    return False


class AtTerminal:
    """See `prefect_linkerd.tasks.outside.Outside`.

    Args:
        flow: the name of the running flow.
        ask: takes what to approve, the plan in Markdown (empty if there is none or it was shown
            before) and a timeout in seconds; returns whether it was approved, None on timeout.
    """

    def __init__(self, flow: str, ask: Ask = _nobody) -> None:
        self._flow = flow
        self._ask = ask
        self._plan = ""
        self._interrupted = threading.Event()
        self._running: list[futures.Future[Any]] = []

    @property
    def log(self) -> Log:
        who = {"task_run_name": _step.get(), "flow_name": self._flow}
        return logging.LoggerAdapter(LOGGER, who)

    @property
    def has_server(self) -> bool:
        return False

    @property
    def owner(self) -> str:
        return f"a command on {socket.gethostname()}"

    @property
    def automation(self) -> str | None:
        return None

    def call(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        name = _name_of(step, *args, **kwargs)
        token = _step.set(name)
        try:
            result = self._retried(step, *args, **kwargs)
        except Exception as error:
            self.say_end(End("Failed", _short(error)))
            raise
        else:
            self.say_end(result if isinstance(result, End) else End("Completed"))
            return cast("R", result.data) if isinstance(result, End) else result
        finally:
            _step.reset(token)

    def _retried(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        attempts = Retrying(
            stop=stop_after_attempt(1 + len(DELAYS)),
            wait=wait_chain(*map(wait_fixed, DELAYS)),
            sleep=self._sleep,
            retry=retry_if_exception(is_transient),
            before_sleep=self._say_retry,
            reraise=True,
        )
        return attempts(step.fn, *args, **kwargs)

    def _sleep(self, seconds: float) -> None:
        if self._interrupted.wait(seconds):
            raise Interrupted

    def _say_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.log.warning(
            "%s Retry %d of %d in %.0f seconds.",
            error,
            state.attempt_number,
            len(DELAYS),
            state.upcoming_sleep,
        )

    def say_end(self, end: End) -> None:
        """Logs how the current step or flow ended."""
        level = logging.ERROR if end.name == "Failed" else logging.INFO
        self.log.log(level, "Finished in state %s(%s)", end.name, end.message or "")

    def submit(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        done: futures.Future[R] = futures.Future()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                done.set_result(context.run(self.call, step, *args, **kwargs))
            except BaseException as error:
                done.set_exception(error)

        self._running.append(done)
        # A daemon thread, so that a second Ctrl-C ends the process whatever the thread is doing.
        threading.Thread(target=run, name=step.name, daemon=True).start()
        return _Future(done)

    def ended(self, name: str | None, message: str, data: object, *, failed: bool) -> Ending:
        return End("Failed" if failed else name or "Completed", message, data)

    def markdown(self, text: str, key: str, description: str) -> None:  # noqa: ARG002
        # Kept for `approve`: a plan has to be shown before it can be approved.
        self._plan = text

    def table(self, rows: Sequence[dict[str, Any]], key: str, description: str) -> None:
        """Does nothing: the command prints the flow's result."""

    def progress(self, key: str, title: str) -> Bar:  # noqa: ARG002 the log has both
        return lambda _percent, _text: None

    def check(self) -> None:
        if self._interrupted.is_set():
            raise Interrupted

    def last(self, key: str) -> str | None:  # noqa: ARG002
        return None

    def send(self, notices: Iterable[Notice]) -> None:
        """Does nothing: events need a server."""

    def failures_in_a_row(self, mesh: str) -> int:  # noqa: ARG002
        return 0

    def approve(self, what: str, hours: float, plan: str) -> bool | None:  # noqa: ARG002
        shown, self._plan = self._plan, ""
        if (answer := self._ask(what, shown, hours * 3600)) is False:
            raise Refused
        return answer

    def run_at(self, moment: datetime, key: str) -> bool:  # noqa: ARG002
        return False

    def alone(self, limit: str, lease_seconds: float) -> AbstractContextManager[object]:  # noqa: ARG002
        # The lease in the cluster keeps other runs out.
        return nullcontext()

    def secret(self, name: str) -> object:
        raise _no_server(name)

    def save_secret(self, name: str, content: str, *, overwrite: bool) -> None:  # noqa: ARG002
        raise _no_server(name)

    def delete_secret(self, name: str) -> None:
        raise _no_server(name)

    def await_rest(self) -> None:
        """Waits for running steps instead of stopping them halfway."""
        futures.wait(self._running)

    def interrupt(self) -> None:
        """Interrupts the running steps and waits up to `PATIENCE` for them to finish."""
        self._interrupted.set()
        futures.wait(self._running, PATIENCE)


class Refused(Exception):
    """Approval was not given; finished work is kept, and a later run resumes from it."""


class _Future(Generic[R]):
    def __init__(self, done: futures.Future[R]) -> None:
        self._done = done

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        if not raise_on_failure and (error := self._done.exception(timeout)) is not None:
            return cast("R", error)
        return self._done.result(timeout)


def _name_of(step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> str:
    if "{" not in step.run_name:
        return step.run_name
    return step.run_name.format(**inspect.signature(step.fn).bind(*args, **kwargs).arguments)


def _short(error: Exception) -> str:
    """Returns the message of our own errors; others may contain a secret, so only their type."""
    return str(error) if isinstance(error, MeshError) else type(error).__name__


def _no_server(block: str) -> InvalidInput:
    return InvalidInput(
        f"Prefect Secret block {block}",
        expected="a Prefect server that has it",
        found="none (PREFECT_API_URL is not set)",
        remedy="Set PREFECT_API_URL, or name another place for the key: trust_anchor.key_file, or "
        "trust_anchor.custody: in-cluster.",
    )
