"""Writes docs/options.md from the models that the Prefect UI makes its forms of.

python -m tools.options_page > docs/options.md
"""

from __future__ import annotations

from typing import Any, cast

from prefect_linkerd.mesh.config.model import MeshConfig

Schema = dict[str, Any]


def options_page() -> str:
    """Every option of a mesh, section by section, with its default and explanation."""
    schema = MeshConfig.model_json_schema()
    sections: dict[str, Schema] = schema["$defs"]
    lines = [
        "# Options of a mesh",
        "",
        "The fields of a mesh, in its file and in the Prefect block *Linkerd Mesh*. In the block's",
        "form, trust anchor, upgrades, viz and Traefik open when they are chosen; other sections,",
        "the domains and the timeout are under *Advanced*, which files and flags do not have.",
        "This page is made by `python -m tools.options_page`.",
    ]
    lines += _section("Mesh", schema, sections)
    for name, section in sorted(sections.items()):
        lines += _section(name, section, sections)
    return "\n".join(lines) + "\n"


def _section(name: str, model: Schema, sections: dict[str, Schema]) -> list[str]:
    lines = ["", f"## {name}", "", str(model.get("description", "")), ""]
    lines += ["| option | default | meaning |", "|---|---|---|"]
    fields: dict[str, Schema] = model["properties"]
    for key, field in fields.items():
        default = "required" if key in model.get("required", ()) else _default(field)
        lines.append(f"| `{key}` | {default} | {_meaning(field, sections)} |")
    return lines


def _default(field: Schema) -> str:
    if "default" not in field:
        return "" if _reference(field) else "empty"
    value: object = field["default"]
    if isinstance(value, dict):
        # A section's default is that of each of its own fields.
        return "see the section"
    return "empty" if value is None else f"`{value}`"


def _meaning(field: Schema, sections: dict[str, Schema]) -> str:
    name = _reference(field)
    target = sections.get(name, {})
    text = str(field.get("description") or target.get("description") or "")
    link = f" See [{name}](#{name.lower()})." if name else ""
    choices = cast("list[str]", field.get("enum") or [])
    offered = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return " ".join(text.split()) + offered + link


def _reference(field: Schema) -> str:
    alternatives: list[Schema] = [field, *field.get("anyOf", [])]
    for alternative in alternatives:
        if reference := alternative.get("$ref"):
            return str(reference).rsplit("/", 1)[-1]
    return ""


if __name__ == "__main__":
    print(options_page(), end="")
