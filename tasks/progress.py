"""Rollout progress where people look: a Prefect progress artifact, and a line in the run's log."""

from __future__ import annotations

import re
import sys
import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from prefect_linkerd.tasks.outside import Bar, headed, outside


class _Terminal:
    """The bars of all running steps at the foot of a terminal; nothing where there is none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._bars = 0

    def add(self, title: str) -> int | None:
        if not sys.stderr.isatty():
            return None
        with self._lock:
            if self._progress is None:
                self._progress = Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TextColumn("{task.fields[text]}"),
                    console=Console(stderr=True),
                    transient=True,
                )
                self._progress.start()
            self._bars += 1
            return self._progress.add_task(title, total=None, text="")

    def update(self, bar: int | None, ready: int, wanted: int, text: str) -> None:
        with self._lock:
            if bar is not None and self._progress is not None:
                self._progress.update(bar, completed=ready, total=wanted, text=text)  # pyright: ignore[reportArgumentType]

    def remove(self, bar: int | None) -> None:
        with self._lock:
            if bar is None or self._progress is None:
                return
            self._progress.remove_task(bar)  # pyright: ignore[reportArgumentType]
            self._bars -= 1
            if not self._bars:
                self._progress.stop()
                self._progress = None


_terminal = _Terminal()


class RolloutProgress:
    """One bar for one step; call it with workloads ready, workloads wanted and a text.

    The bar is a Prefect progress artifact, a line in the run's log for every change and, where
    the flow runs in a terminal, a live bar.
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
        # Another thread than the step's own looks at helm, and would end alone.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _terminal.remove(self._bar)
        if kind is None and self._update is not None:
            self._update(100.0, headed(f"{self._title}: done"))
