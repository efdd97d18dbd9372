"""How a release's values would change: key by key, before and after, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prefect_linkerd.mesh.helm.values import leaves, merge
from prefect_linkerd.mesh.planning.losses import ReleaseChange, dotted, shown

WIDEST = 80
"""The most characters of a value that are shown."""


@dataclass(frozen=True)
class ChangedValue:
    """One value of a chart; `before` is empty for an added one, `after` for a removed one."""

    chart: str
    key: str
    before: str
    after: str


def changed_values(changes: Iterable[ReleaseChange]) -> Iterator[ChangedValue]:
    """The values that change in installed releases; changed chart defaults do not count."""
    for change in changes:
        if change.before is None:
            continue
        had = dict(leaves(merge(change.before.defaults, change.before.values)))
        will = dict(leaves(merge(change.defaults, change.values)))
        given = {key for key, _ in (*leaves(change.before.values), *leaves(change.values))}
        for key in sorted(given):
            before, after = had.get(key), will.get(key)
            if before != after:
                name = key[-1]
                yield ChangedValue(
                    change.chart, dotted(key), _text(before, name), _text(after, name)
                )


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    text = json.dumps(shown(value, name))
    return text if len(text) <= WIDEST else f"{text[:WIDEST]}…"


def values_section(changes: Iterable[ChangedValue]) -> list[str]:
    """The changes as a Markdown diff, chart by chart."""
    by_chart: dict[str, list[ChangedValue]] = {}
    for change in changes:
        by_chart.setdefault(change.chart, []).append(change)
    lines: list[str] = []
    for chart, found in by_chart.items():
        lines += ["", f"### Values of {chart}", "", "```diff"]
        for change in found:
            lines += [f"- {change.key}: {change.before}"] if change.before else []
            lines += [f"+ {change.key}: {change.after}"] if change.after else []
        lines.append("```")
    return lines
