"""Charts that stand in for the real software in rehearsals, and how they are marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Code that only shows HEAD needs no API client.
    from prefect_linkerd.mesh.kubernetes.client import Object

ANNOTATION = "prefect-linkerd.dev/rehearsal"
"""`true` in the metadata of such a chart, and on each object that it creates."""

HEAD = "REHEARSAL: stand-in charts, not Linkerd"
"""The start of every message about a mesh of such charts."""


def is_rehearsal(annotations: Mapping[str, Any] | None) -> bool:
    """Whether annotations, of a chart or an object, are those of a stand-in."""
    return (annotations or {}).get(ANNOTATION) == "true"


def made_by_rehearsal(*objects: Object | None) -> bool:
    """Whether any of these objects is a stand-in's; None stands for a missing one."""
    return any(
        is_rehearsal(obj["metadata"].get("annotations")) for obj in objects if obj is not None
    )
