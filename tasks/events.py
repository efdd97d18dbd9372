"""Telling others: notices of `mesh` as Prefect events, to which automations listen."""

from __future__ import annotations

from collections.abc import Iterable

from prefect.events import emit_event

from mesh.notice import Notice


def send(notices: Iterable[Notice]) -> None:
    """Sends events about a mesh; part of a step."""
    for notice in notices:
        emit_event(notice.event, resource=notice.resource, payload=notice.payload)
