"""Reads a model's JSON schema as the Prefect UI does to build a form."""

from __future__ import annotations

from typing import Any


def undescribed_fields(schema: dict[str, Any]) -> list[str]:
    """Every field that lacks a title or a description, as `Model.field`."""
    definitions = schema.get("$defs") or schema.get("definitions") or {}
    models = {schema.get("title", "root"): schema} | definitions

    def explained(field: dict[str, Any]) -> bool:
        # A field with the same title as its model is only a reference in the schema.
        target = definitions.get(field.get("$ref", "").rsplit("/", 1)[-1], {})
        content = {**target, **field}
        return bool(content.get("title") and content.get("description"))

    return sorted(
        f"{name}.{key}"
        for name, model in models.items()
        for key, field in model.get("properties", {}).items()
        if not explained(field)
    )
