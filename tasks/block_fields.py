"""How a mesh's block groups the fields of its configuration, without Prefect's own blocks."""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig

FIRST = ("credentials", "access", "name", "version", "profile", "ha", "issuer")
"""What everybody looks at, in the order of the block's form."""
CLOSED = ("trust_anchor", "upgrade", "viz", "traefik")
"""Sections that the form shows once they are chosen."""
ADVANCED = tuple(name for name in MeshConfig.model_fields if name not in (*FIRST, *CLOSED))
"""The fields that few change: one closed section of the form, and of what the block stores.

Only there: in files, flags and Python they stay where they are, and a block that was saved without
that section is loaded as it is.
"""


def ungrouped(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a model, from what a block stores: without groups and closed sections."""
    advanced: dict[str, Any] = fields.get("advanced") or {}
    closed = {name for name in CLOSED if fields.get(name, ...) is None}
    kept = {k: v for k, v in fields.items() if k != "advanced" and k not in closed}
    return kept | advanced
