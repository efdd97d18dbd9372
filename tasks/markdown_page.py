"""Formats Markdown so that both of Prefect's UIs show all of it.

The older UI does not wrap lines in tables, so a table that is too wide is cut off at the right. It
also shows the backticks of code within a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

WIDTH = 708
"""Maximum width of a table in pixels, in a window 1280 pixels wide."""
_CHARACTER, _MARGINS = 6.6, 24
"""Pixels: the average width of a character, and the horizontal padding of a column."""

_SEPARATOR = re.compile(r"\|(\s*:?-+:?\s*\|)+")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_CODE_IN_LINK = re.compile(r"\[`([^`\]]*)`\](?=\()")


def fit_to_ui(page: str) -> str:
    """The page with too-wide tables turned into lists, and no code within links."""
    return "\n".join(_lines(_CODE_IN_LINK.sub(r"[\1]", page).split("\n")))


def _lines(page: list[str]) -> Iterator[str]:
    at = 0
    while at < len(page):
        if at + 1 < len(page) and page[at].startswith("|") and _SEPARATOR.fullmatch(page[at + 1]):
            end = at + 2
            while end < len(page) and page[end].startswith("|"):
                end += 1
            yield from _table(page[at:end])
            at = end
        else:
            yield page[at]
            at += 1


def _table(lines: list[str]) -> Iterator[str]:
    head, *rows = [_cells(line) for line in (lines[0], *lines[2:])]
    columns = zip(head, *rows, strict=False)
    if sum(max(map(_length, column)) * _CHARACTER + _MARGINS for column in columns) <= WIDTH:
        yield from lines
        return
    for first, *others in rows:
        said = [(name, text) for name, text in zip(head[1:], others, strict=False) if text]
        if len(head) == 2:
            yield f"- {first}: {others[0]}"
            continue
        yield f"- **{first}**"
        yield from (f"  - {name}: {text}" if name else f"  - {text}" for name, text in said)


def _cells(row: str) -> list[str]:
    inner = row.strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def _length(cell: str) -> int:
    return len(_LINK.sub(r"\1", cell).replace("`", "").replace("**", ""))
