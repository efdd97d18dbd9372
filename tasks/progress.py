"""Rollout progress where people look: a Prefect progress artifact, and a line in the run's log."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from mesh.cluster import Cluster
from mesh.errors import ApiError
from mesh.rollout import workload_progress


class RolloutProgress:
    """One bar for one step; call it with workloads ready, workloads wanted and a text."""

    def __init__(self, mesh: str, title: str) -> None:
        self._key = re.sub(r"[^a-z0-9]+", "-", f"{mesh}-{title}".lower()).strip("-")
        self._title = title
        self._artifact: UUID | None = None
        self._last: tuple[int, int, str] | None = None
        self._log = get_run_logger()

    def __enter__(self) -> Self:
        self._artifact = create_progress_artifact(0.0, key=self._key, description=self._title)
        return self

    def __call__(self, ready: int, wanted: int, text: str) -> None:
        if (ready, wanted, text) == self._last or self._artifact is None:
            return
        self._last = (ready, wanted, text)
        self._log.info("%s: %d of %d ready; %s", self._title, ready, wanted, text)
        update_progress_artifact(
            self._artifact,
            100.0 * ready / max(wanted, 1),
            description=f"{self._title}: {ready} of {wanted} ready",
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._artifact is not None:
            update_progress_artifact(self._artifact, 100.0, description=f"{self._title}: done")


@contextmanager
def watched(
    cluster: Cluster, namespace: str, mesh: str, title: str, *, every: float = 2.0
) -> Generator[None]:
    """Shows how a namespace's workloads come up while something else (Helm) waits for them."""
    with RolloutProgress(mesh, title) as progress:
        over = threading.Event()
        thread = threading.Thread(
            target=_watch, args=(cluster, namespace, progress, over, every), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=10)


def _watch(
    cluster: Cluster,
    namespace: str,
    progress: Callable[[int, int, str], None],
    over: threading.Event,
    every: float,
) -> None:
    while not over.wait(every):
        try:
            progress(*workload_progress(cluster, namespace))
        except ApiError:
            # The step itself meets the same fault and reports it.
            continue
