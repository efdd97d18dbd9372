"""When certificates expire: a picture with a bar per certificate on a common axis, and a table."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from prefect_linkerd.mesh.snapshot.expiry import Expiry

WIDTH, LABELS, ROW, TOP = 900, 300, 26, 44
_STEPS = (1, 7, 30, 90, 365, 1825, 3650)
_COLOURS = ((0.0, "#b3261e"), (7.0, "#d9622b"), (30.0, "#d99a2b"), (60.0, "#7a9a3a"))
_LATER = "#2b8a6f"
_RENEWED = "#3b6ea5"


def expiry_timeline(found: Sequence[Expiry], title: str) -> str:
    """An SVG picture of the given certificates, in their order.

    The axis is logarithmic in days, as an issuer may live for two days and its anchor for ten
    years.
    """
    height = TOP + ROW * max(len(found), 1) + 16
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="18" font-size="14" fill="#1c1b1f">{escape(title)}</text>',
    ]
    for days in _STEPS:
        x = _x(days)
        lines.append(
            f'<line x1="{x:.1f}" y1="{TOP - 12}" x2="{x:.1f}" y2="{height - 8}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{TOP - 16}" text-anchor="middle" fill="#666">'
            f"{_span(days)}</text>"
        )
    if not found:
        lines.append(f'<text x="8" y="{TOP + 14}" fill="#666">no certificate was found</text>')
    for number, expiry in enumerate(found):
        lines += _bar(expiry, TOP + ROW * number)
    return "\n".join([*lines, "</svg>"]) + "\n"


def timeline_markdown(found: Sequence[Expiry], title: str) -> str:
    """A Markdown page with the picture and the table."""
    picture = base64.b64encode(expiry_timeline(found, title).encode()).decode()
    lines = [f"![{title}](data:image/svg+xml;base64,{picture})", ""]
    return "\n".join(lines + expiry_table(found)) + "\n"


def expiry_table(found: Sequence[Expiry]) -> list[str]:
    """The lines of a Markdown table of certificates, in their order."""
    if not found:
        return []
    return [
        "| days left | certificate | where | expires |",
        "|---|---|---|---|",
        *(
            f"| {expiry.days_left:.1f} | {expiry.name} | {expiry.subject} "
            f"| {expiry.info.not_after:%Y-%m-%d} |"
            for expiry in found
        ),
    ]


def _bar(expiry: Expiry, y: int) -> list[str]:
    left = max(expiry.days_left, 0.0)
    end = _x(left)
    name = escape(expiry.title[:48])
    words = f"{_span(expiry.days_left)} left" if expiry.days_left > 0 else "expired"
    words += f", renewed by {expiry.renewed_by}" if expiry.renewed_by else ""
    # The text follows the bar, or is inside it if the picture has no room after it.
    is_long = end > WIDTH - 40 - 6 * len(words)
    place = (
        f'x="{end - 6:.1f}" text-anchor="end" fill="#ffffff"'
        if is_long
        else f'x="{max(end, LABELS) + 6:.1f}" fill="#1c1b1f"'
    )
    return [
        f'<text x="8" y="{y + 15}" fill="#1c1b1f">{name}</text>',
        f'<rect x="{LABELS}" y="{y + 3}" width="{max(end - LABELS, 3):.1f}" height="{ROW - 8}" '
        f'rx="2" fill="{_colour(expiry)}"><title>{escape(expiry.subject)} until '
        f"{expiry.info.not_after:%Y-%m-%d %H:%M} UTC</title></rect>",
        f'<text {place} y="{y + 15}">{words}</text>',
    ]


def _x(days: float) -> float:
    scale = math.log1p(days) / math.log1p(_STEPS[-1])
    return LABELS + min(scale, 1.0) * (WIDTH - LABELS - 24)


def _colour(expiry: Expiry) -> str:
    # A certificate that is renewed automatically is often short-lived: no cause for alarm.
    if expiry.renewed_by and expiry.days_left > 0:
        return _RENEWED
    return next((colour for limit, colour in _COLOURS if expiry.days_left <= limit), _LATER)


def _span(days: float) -> str:
    if days < 2:
        return f"{days * 24:.0f} h"
    return f"{days:.0f} d" if days < 730 else f"{days / 365:.0f} y"
