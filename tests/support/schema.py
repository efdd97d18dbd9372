"""Reads the JSON schema of a model, as the Prefect UI does to make a form of it."""

from __future__ import annotations

from typing import Any


def undescribed_fields(schema: dict[str, Any]) -> list[str]:
    """Every field without a title or description, as `Model.field`."""
    definitions = schema.get("$defs") or schema.get("definitions") or {}
    models = {schema.get("title", "root"): schema} | definitions

    def explained(field: dict[str, Any]) -> bool:
        # A field whose title is that of its model is written as the reference alone.
        target = definitions.get(field.get("$ref", "").rsplit("/", 1)[-1], {})
        content = {**target, **field}
        return bool(content.get("title") and content.get("description"))

    return sorted(
        f"{name}.{key}"
        for name, model in models.items()
        for key, field in model.get("properties", {}).items()
        if not explained(field)
    )
