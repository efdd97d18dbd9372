"""How the Linkerd Mesh block groups the configuration's fields; does not import Prefect."""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig

FIRST = ("credentials", "access", "name", "version", "profile", "ha", "issuer")
"""The fields at the top of the block's form, in its order."""
CLOSED = ("trust_anchor", "upgrade", "viz", "traefik")
"""Sections that the form shows only when selected."""
ADVANCED = tuple(name for name in MeshConfig.model_fields if name not in (*FIRST, *CLOSED))
"""Rarely changed fields: one collapsed section, `advanced`, of the form and of the stored block.

Files, flags and Python keep these fields at the top level. A block that was saved without the
section loads unchanged.
"""


def ungrouped(fields: dict[str, Any]) -> dict[str, Any]:
    """A block's stored data as the model's fields: ungrouped, without unselected sections."""
    advanced: dict[str, Any] = fields.get("advanced") or {}
    closed = {name for name in CLOSED if fields.get(name, ...) is None}
    kept = {k: v for k, v in fields.items() if k != "advanced" and k not in closed}
    return kept | advanced
