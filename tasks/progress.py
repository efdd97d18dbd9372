"""Shows rollout progress: a Prefect progress artifact, log lines, and a live bar at a terminal."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from prefect_linkerd.tasks.outside import Bar, headed, outside

if TYPE_CHECKING:
    from prefect_linkerd.mesh.restarts import Batch

_ROWS = 12
"""Batches shown at once: the last completed ones, the current one and the next."""


def is_live() -> bool:
    """Whether output may be redrawn: not in a file, a CI log or a plain terminal."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("CI") or os.environ.get("TERM") == "dumb"
    return not plain and sys.stderr.isatty()


class _Terminal:
    """The bars and batch tables of all running steps, at the bottom of a live terminal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._progress = _bars()
        self._tables: dict[int, Table] = {}

    def add(self, title: str) -> int | None:
        if not is_live():
            return None
        with self._lock:
            if self._live is None:
                self._progress = _bars()
                console = Console(stderr=True)
                self._live = Live(
                    console=console, get_renderable=self._shown, transient=True, auto_refresh=True
                )
                self._live.start()
            return self._progress.add_task(title, total=None, text="")

    def _shown(self) -> RenderableType:
        return Group(*self._tables.values(), self._progress)

    def update(self, bar: int | None, ready: int, wanted: int, text: str) -> None:
        with self._lock:
            if bar is not None and self._live is not None:
                self._progress.update(TaskID(bar), completed=ready, total=wanted, text=text)

    def show(self, bar: int, table: Table) -> None:
        with self._lock:
            self._tables[bar] = table
            if self._live is not None:
                self._live.refresh()

    def remove(self, bar: int | None) -> None:
        with self._lock:
            if bar is None or self._live is None:
                return
            self._tables.pop(bar, None)
            self._progress.remove_task(TaskID(bar))
            if not self._progress.tasks:
                self._live.stop()
                self._live = None


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )


_terminal = _Terminal()


def batch_table(batches: Sequence[Batch], done: int) -> Table:
    """A table of the restart batches around the current one: workloads, reason and state."""
    first = max(0, min(done - 2, len(batches) - _ROWS))
    shown = list(enumerate(batches))[first : first + _ROWS]
    table = Table("batch", "workloads", "reason", "state", box=None, pad_edge=False)
    if first:
        table.add_row("", f"{first} more", "", "[green]done[/green]")
    for number, batch in shown:
        state = "[dim]waiting[/dim]"
        if number <= done:
            state = "[green]done[/green]" if number < done else "[yellow]restarting[/yellow]"
        table.add_row(_number(number, batches), _names(batch), batch.reason, state)
    if rest := len(batches) - first - len(shown):
        table.add_row("", f"{rest} more", "", "[dim]waiting[/dim]")
    return table


def _number(number: int, batches: Sequence[Batch]) -> str:
    return f"{number + 1}/{len(batches)}"


def _names(batch: Batch) -> str:
    subjects = [target.subject for target in batch.targets]
    more = f" and {len(subjects) - 3} more" if len(subjects) > 3 else ""
    return ", ".join(subjects[:3]) + more


class RolloutProgress:
    """A step's progress; call it with the numbers of workloads ready and wanted, and a text.

    It is shown as a Prefect progress artifact, as a log line for every change and, at a terminal,
    as a live bar below the table of restart batches.
    """

    def __init__(self, mesh: str, title: str) -> None:
        self._key = re.sub(r"[^a-z0-9]+", "-", f"linkerd-{mesh}-{title}".lower()).strip("-")
        self._title = title
        self._update: Bar | None = None
        self._last: tuple[int, int, str] | None = None
        self._outside = outside()
        self._thread = threading.get_ident()
        self._log = self._outside.log
        self._bar: int | None = None

    def __enter__(self) -> Self:
        self._update = self._outside.progress(self._key, headed(self._title))
        self._bar = _terminal.add(self._title)
        return self

    def __call__(self, ready: int, wanted: int, text: str) -> None:
        if self._update is None:
            return
        # Another thread watches helm; raising there would end only that thread.
        if threading.get_ident() == self._thread:
            self._outside.check()
        if (ready, wanted, text) == self._last:
            return
        self._last = (ready, wanted, text)
        self._log.info("%s: %d of %d ready; %s", self._title, ready, wanted, text)
        _terminal.update(self._bar, ready, wanted, text)
        self._update(
            100.0 * ready / max(wanted, 1),
            headed(f"{self._title}: {ready} of {wanted} ready; {text}"),
        )

    def show_batches(self, batches: Sequence[Batch], done: int) -> None:
        """See `prefect_linkerd.mesh.restarts.ShowsBatches`: a live table, or log lines."""
        if self._bar is not None:
            _terminal.show(self._bar, batch_table(batches, done))
        elif done < len(batches):
            batch = batches[done]
            number = _number(done, batches)
            self._log.info("batch %s: %s (%s)", number, _names(batch), batch.reason)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _terminal.remove(self._bar)
        if kind is None and self._update is not None:
            self._update(100.0, headed(f"{self._title}: done"))
