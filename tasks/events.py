"""Telling others: notices of `mesh` as Prefect events, to which automations listen."""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.report.events import Notice
from prefect_linkerd.tasks.outside import outside


def send(notices: Iterable[Notice]) -> None:
    """Sends events about a mesh; part of a step."""
    outside().send(notices)


def failures_in_a_row(mesh: str) -> int:
    """How often in a row a mesh had failed at its last verdict; part of a step."""
    return outside().failures_in_a_row(mesh)
