"""Draws the picture of the rooms in docs/architecture.md from the contracts of import-linter.

`python -m tools.rooms_picture` writes it into that page.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"
PACKAGE = "prefect_linkerd"
PICTURE = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- end of rooms -->)", re.DOTALL)
WIDTH = 22


def picture() -> str:
    """Returns the layers from top to bottom: each may import those below it, and none above."""
    layers = [layer for contract in _contracts() for layer in _layers(contract)]
    # A line between layers; rooms of one layer, which do not import each other, stay together.
    text = "\n──\n".join(
        "\n".join(f"{name:<{WIDTH}} {_said_of(path)}" for name, path in layer) for layer in layers
    )
    return f"```text\n{text}\n```\n"


def with_picture(page: str) -> str:
    """Returns the page with its picture updated."""
    return PICTURE.sub(lambda _: picture(), page, count=1)


def _contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    return [contract for contract in contracts if contract["type"] == "layers"]


def _layers(contract: dict[str, Any]) -> Iterable[list[tuple[str, Path]]]:
    [container] = contract.get("containers", [""])
    for layer in contract["layers"]:
        names = [name.strip() for name in layer.split("|")]
        full = [f"{container}.{name}".lstrip(".") for name in names]
        yield [_room(name) for name in full]


def _room(name: str) -> tuple[str, Path]:
    parts = name.split(".")
    path = ROOT.joinpath(*parts)
    short = "/".join(parts[1:])
    if path.is_dir():
        return f"{short}/", path / "__init__.py"
    return f"{short}.py", path.with_suffix(".py")


def _said_of(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.splitlines()[0]


if __name__ == "__main__":
    PAGE.write_text(with_picture(PAGE.read_text()))
