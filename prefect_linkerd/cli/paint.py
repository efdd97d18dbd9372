"""Colours, and the width of tables, as the output's terminal allows."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import Literal, TextIO

Colour = Literal["red", "yellow", "green", "dim"]

_CODES: dict[Colour, str] = {"red": "31", "yellow": "33", "green": "32", "dim": "2"}
NARROWEST = 12
"""The fewest characters in a line of a wrapped cell."""


def is_coloured(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours, and they are not turned off.

    Sources: https://no-color.org (set and not empty means none), terminfo's `dumb`.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def painted(text: str, colour: Colour, stream: TextIO) -> str:
    """Returns the text in a colour if the stream shows colours."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if is_coloured(stream) else text


def painted_checks(text: str, stream: TextIO) -> str:
    """Colours the marks in a report of checks that looks like that of `linkerd check`."""
    colours: dict[str, Colour] = {"√": "green", "‼": "yellow", "\u00d7": "red", "-": "dim"}

    def line(text: str) -> str:
        mark, space, rest = text.partition(" ")
        if space and mark in colours:
            return f"{painted(mark, colours[mark], stream)} {rest}"
        return text

    return "\n".join(map(line, text.split("\n")))


def width_of(stream: TextIO) -> int | None:
    """Returns the terminal's columns; None for a file or a pipe, which programs read."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def table(rows: Sequence[dict[str, str]], width: int | None = None) -> str:
    """Returns rows with aligned columns; wraps the widest cells to fit into the width."""
    if not rows:
        return ""
    columns = [[name, *(str(row[name]) for row in rows)] for name in rows[0]]
    widths = _widths([max(map(len, column)) for column in columns], width)
    lines: list[str] = []
    for cells in zip(*columns, strict=True):
        wrapped = [
            textwrap.wrap(cell, size, break_long_words=True) or [""]
            for cell, size in zip(cells, widths, strict=True)
        ]
        for number in range(max(map(len, wrapped))):
            parts = [cell[number] if number < len(cell) else "" for cell in wrapped]
            padded = (part.ljust(size) for part, size in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def _widths(wanted: Sequence[int], width: int | None) -> list[int]:
    """Returns each column's width: as wanted, with the widest shrunk until all fit."""
    found = [max(size, 1) for size in wanted]
    if width is None:
        return found
    room = width - 2 * (len(found) - 1)
    while sum(found) > room:
        widest = max(range(len(found)), key=found.__getitem__)
        if found[widest] <= NARROWEST:
            break
        found[widest] -= 1
    return found
