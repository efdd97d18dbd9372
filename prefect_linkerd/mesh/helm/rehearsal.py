"""Charts that stand in for the real software, to rehearse with: they and their objects say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Whoever only shows the head needs no API client.
    from prefect_linkerd.mesh.kubernetes.client import Object

ANNOTATION = "prefect-linkerd.dev/rehearsal"
"""`true` in the metadata of such a chart, and on each object that it makes."""

HEAD = "REHEARSAL: stand-in charts, not Linkerd"
"""The first words of everything that is said about a mesh of such charts."""


def is_rehearsal(annotations: Mapping[str, Any] | None) -> bool:
    """Whether annotations, of a chart or an object, are those of a stand-in."""
    return (annotations or {}).get(ANNOTATION) == "true"


def made_by_rehearsal(*objects: Object | None) -> bool:
    """Whether some of these objects is a stand-in's; None is one that is not there."""
    return any(
        is_rehearsal(obj["metadata"].get("annotations")) for obj in objects if obj is not None
    )
