"""Telling others: notices of `mesh` as Prefect events, to which automations listen."""

from __future__ import annotations

from collections.abc import Iterable

from prefect import get_client
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from prefect_linkerd.mesh.report.events import VERDICTS, Notice


def send(notices: Iterable[Notice]) -> None:
    """Sends events about a mesh; part of a step."""
    for notice in notices:
        emit_event(notice.event, resource=notice.resource, payload=notice.payload)


def failures_in_a_row(mesh: str) -> int:
    """How often in a row a mesh had failed at its last verdict; part of a step."""
    wanted = EventFilter(
        event=EventNameFilter(name=list(VERDICTS)),
        resource=EventResourceFilter(id=[f"linkerd.mesh.{mesh}"]),
    )
    with get_client(sync_client=True) as client:
        newest = client.read_events(wanted, limit=1).events
    return int(newest[0].payload.get("failures", 0)) if newest else 0
