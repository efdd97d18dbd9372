"""The environment of steps and flows: a log, reports, events, approvals, secrets.

They access it only through this module. Under Prefect it is the run (`tasks.on_prefect`). For a
command at a terminal without a Prefect server it is the terminal (`cli.at_terminal`); then nothing
here imports Prefect.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from prefect_linkerd.mesh.helm.rehearsal import HEAD

if TYPE_CHECKING:
    from prefect_linkerd.mesh.mesh import Mesh
    from prefect_linkerd.mesh.report.events import Notice
    from prefect_linkerd.tasks.step import Step

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Log = logging.Logger | logging.LoggerAdapter[Any]
Bar = Callable[[float, str], None]
"""Shows a step's progress: takes percent and a text."""


class Ending(Protocol):
    """The final state of a flow or step, if its result is not enough. Prefect's `State` is one.

    `name` is, for example, Completed, Degraded or Skipped.
    """

    @property
    def name(self) -> str | None: ...
    @property
    def message(self) -> str | None: ...
    @property
    def data(self) -> Any: ...


class Future(Protocol[R_co]):
    """A step that runs in parallel with others."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R_co:
        """Waits for the result. Without `raise_on_failure` an exception is returned, not raised.

        Args:
            timeout: seconds to wait; by default there is no limit.

        Raises:
            TimeoutError: the step is still running after `timeout`.
        """
        ...


class Outside(Protocol):
    """The environment of a run."""

    @property
    def log(self) -> Log: ...

    @property
    def has_server(self) -> bool: ...

    @property
    def owner(self) -> str:
        """This run's human-readable name in a lease; empty if it has none."""
        ...

    @property
    def automation(self) -> str | None:
        """The automation that started this run; None if it was started otherwise."""
        ...

    def call(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    def submit(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def ended(self, name: str | None, message: str, data: Any, *, failed: bool) -> Ending: ...
    def markdown(self, text: str, key: str, description: str) -> None: ...
    def table(self, rows: Sequence[dict[str, Any]], key: str, description: str) -> None: ...
    def progress(self, key: str, title: str) -> Bar: ...

    def check(self) -> None:
        """Raises if the run was interrupted; a waiting step calls it repeatedly."""
        ...

    def last(self, key: str) -> str | None:
        """The content of the latest report with this key; None if there is none."""
        ...

    def send(self, notices: Iterable[Notice]) -> None: ...

    def failures_in_a_row(self, mesh: str) -> int: ...

    def approve(self, what: str, hours: float, plan: str) -> bool | None:
        """Waits for approval; None if it times out.

        Args:
            plan: key of the plan's Markdown report; empty if there is no plan to show.
        """
        ...

    def run_at(self, moment: datetime, key: str) -> bool:
        """Schedules a run with the same parameters; False if that is not possible here."""
        ...

    def alone(self, limit: str, lease_seconds: float) -> AbstractContextManager[object]:
        """Waits until no other run on the same server holds this limit, then holds it."""
        ...

    def secret(self, name: str) -> object:
        """The content of a Secret block on the server; None if no block has this name."""
        ...

    def save_secret(self, name: str, content: str, *, overwrite: bool) -> None: ...
    def delete_secret(self, name: str) -> None: ...


_current: ContextVar[Outside | None] = ContextVar("outside", default=None)
_subject: ContextVar[Mesh | None] = ContextVar("subject", default=None)


def outside() -> Outside:
    """This run's environment: Prefect, unless `within` has set another."""
    if (found := _current.get()) is not None:
        return found
    from prefect_linkerd.tasks.on_prefect import ON_PREFECT

    return ON_PREFECT


@contextmanager
def within(surroundings: Outside) -> Generator[None]:
    """Runs the body of the `with` statement in this environment instead of Prefect."""
    token = _current.set(surroundings)
    try:
        yield
    finally:
        _current.reset(token)


def without_prefect() -> bool:
    """Whether modules can skip importing Prefect, because nothing in this process needs it.

    The import takes longer than many steps do. Once Prefect is imported, skipping saves nothing.
    """
    return _current.get() is not None and "prefect" not in sys.modules


def get_run_logger() -> Log:
    return outside().log


def reports_are_about(mesh: Mesh | None) -> None:
    """Sets the mesh that this run's reports are about, so that those of a rehearsal say so."""
    _subject.set(mesh)


def report_head() -> str:
    """The heading of every report of this run; empty for a real mesh."""
    mesh = _subject.get()
    return HEAD if mesh is not None and mesh.is_rehearsal else ""


def headed(line: str) -> str:
    """A line of a report, with that heading before it."""
    return f"{head}. {line}" if (head := report_head()) else line


def create_markdown_artifact(text: str, *, key: str, description: str) -> None:
    if head := report_head():
        text = f"**{head}**\n\n{text}"
    outside().markdown(text, key, headed(description))


def create_table_artifact(rows: Sequence[dict[str, Any]], *, key: str, description: str) -> None:
    outside().table(rows, key, headed(description))


def completed(data: Any = None, *, name: str | None = None, message: str = "") -> Ending:
    """A successful final state; set `name` if `Completed` does not say enough."""
    return outside().ended(name, message, data, failed=False)


def failed(data: Any, *, message: str) -> Ending:
    """A failed final state that still carries a result."""
    return outside().ended(None, message, data, failed=True)
