"""Publishes the requests of restarted workloads: one page for each mesh."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from prefect_linkerd.mesh.traffic.page import traffic_markdown
from prefect_linkerd.mesh.traffic.watch import BatchTraffic
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import create_markdown_artifact


@contextmanager
def told(mesh: str, rows: Callable[[], Sequence[BatchTraffic]]) -> Generator[None]:
    """Writes the page when the `with` statement exits, even by an error, if batches were added.

    Args:
        mesh: its name.
        rows: returns the batches so far.
    """
    known = len(rows())
    try:
        yield
    finally:
        if len(rows()) > known:
            create_markdown_artifact(
                traffic_markdown(f"Mesh {mesh}", rows()),
                key=mesh_key(mesh, "traffic"),
                description="Requests before and after each batch of restarts",
            )
