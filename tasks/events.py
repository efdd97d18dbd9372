"""Sends the notices of `mesh` as Prefect events, which trigger automations."""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.report.events import Notice
from prefect_linkerd.tasks.outside import outside


def send(notices: Iterable[Notice]) -> None:
    """Sends events about a mesh; called within a step."""
    outside().send(notices)


def failures_in_a_row(mesh: str) -> int:
    """A mesh's consecutive failures up to its last verdict; called within a step."""
    return outside().failures_in_a_row(mesh)
