"""What steps and flows need of the world around them: a log, reports, events, approvals, secrets.

This is the one place where they meet it. Under Prefect it is the run (`tasks.on_prefect`). For a
command at a terminal without a Prefect server it is the terminal (`cli.at_terminal`), and nothing
here imports Prefect then.
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
"""Takes how far a step is, in percent, and a text."""


class Ending(Protocol):
    """How a flow or step ended, where its result alone does not say it: Prefect's `State` is one.

    `name` is such as Completed, Degraded or Skipped.
    """

    @property
    def name(self) -> str | None: ...
    @property
    def message(self) -> str | None: ...
    @property
    def data(self) -> Any: ...


class Future(Protocol[R_co]):
    """A step that runs beside others."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R_co:
        """Waits for its end. Without `raise_on_failure` an exception is returned, not raised.

        Args:
            timeout: seconds to wait; by default as long as it takes.

        Raises:
            TimeoutError: it has not ended by then.
        """
        ...


class Outside(Protocol):
    """The surroundings of a run."""

    @property
    def log(self) -> Log: ...

    @property
    def has_server(self) -> bool: ...

    @property
    def owner(self) -> str:
        """Names this run in a lease, for people; empty where it has no name."""
        ...

    @property
    def automation(self) -> str | None:
        """The automation that started this run; None where it was somebody else."""
        ...

    def call(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    def submit(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def ended(self, name: str | None, message: str, data: Any, *, failed: bool) -> Ending: ...
    def markdown(self, text: str, key: str, description: str) -> None: ...
    def table(self, rows: Sequence[dict[str, Any]], key: str, description: str) -> None: ...
    def progress(self, key: str, title: str) -> Bar: ...

    def check(self) -> None:
        """Raises where a step that waits is to end, as somebody has interrupted the run."""
        ...

    def last(self, key: str) -> str | None:
        """What the last report of a key held; None where there is none."""
        ...

    def send(self, notices: Iterable[Notice]) -> None: ...

    def failures_in_a_row(self, mesh: str) -> int: ...

    def approve(self, what: str, hours: float, plan: str) -> bool | None:
        """Waits for a person's answer; None where there is none in time.

        Args:
            plan: key of the plan's markdown; empty where there is no plan to look at.
        """
        ...

    def run_at(self, moment: datetime, key: str) -> bool:
        """Whether the run was put off: it is run again then, with the same parameters."""
        ...

    def alone(self, limit: str, lease_seconds: float) -> AbstractContextManager[object]:
        """Waits for the other runs with this limit on the same server."""
        ...

    def secret(self, name: str) -> object:
        """What a Secret block of the server holds; None where there is none of this name."""
        ...

    def save_secret(self, name: str, content: str, *, overwrite: bool) -> None: ...
    def delete_secret(self, name: str) -> None: ...


_current: ContextVar[Outside | None] = ContextVar("outside", default=None)
_subject: ContextVar[Mesh | None] = ContextVar("subject", default=None)


def outside() -> Outside:
    """The surroundings of this run: Prefect's, unless `within` says otherwise."""
    if (found := _current.get()) is not None:
        return found
    from prefect_linkerd.tasks.on_prefect import ON_PREFECT

    return ON_PREFECT


@contextmanager
def within(surroundings: Outside) -> Generator[None]:
    """Runs what is in the block in other surroundings than Prefect's."""
    token = _current.set(surroundings)
    try:
        yield
    finally:
        _current.reset(token)


def without_prefect() -> bool:
    """Whether modules may leave Prefect out: nothing of this process needs it.

    Its import takes longer than many a step. Where it was imported already, nothing is gained.
    """
    return _current.get() is not None and "prefect" not in sys.modules


def get_run_logger() -> Log:
    return outside().log


def reports_are_about(mesh: Mesh | None) -> None:
    """Names the mesh of this run's reports, so that those of a rehearsal say so."""
    _subject.set(mesh)


def report_head() -> str:
    """What every report of this run begins with; empty for a real mesh."""
    mesh = _subject.get()
    return HEAD if mesh is not None and mesh.is_rehearsal else ""


def headed(line: str) -> str:
    """A line of a report with that head."""
    return f"{head}. {line}" if (head := report_head()) else line


def create_markdown_artifact(text: str, *, key: str, description: str) -> None:
    if head := report_head():
        text = f"**{head}**\n\n{text}"
    outside().markdown(text, key, headed(description))


def create_table_artifact(rows: Sequence[dict[str, Any]], *, key: str, description: str) -> None:
    outside().table(rows, key, headed(description))


def completed(data: Any = None, *, name: str | None = None, message: str = "") -> Ending:
    """An end that is no failure, with a name of its own where `Completed` does not say it all."""
    return outside().ended(name, message, data, failed=False)


def failed(data: Any, *, message: str) -> Ending:
    """A failure that has a result all the same."""
    return outside().ended(None, message, data, failed=True)
