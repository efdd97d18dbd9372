"""The requests of a run's batches, as a page."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_linkerd.mesh.traffic.judgement import Measured, in_percent
from prefect_linkerd.mesh.traffic.watch import BatchTraffic

NAMED = 10
"""The most workloads of a batch that are named."""


def traffic_markdown(title: str, rows: Sequence[BatchTraffic]) -> str:
    """One line for each batch, and what dropped."""
    lines = [f"# {title}: requests of the restarted workloads", ""]
    lines += ["| batch | phase | workloads | just before | since | result |"]
    lines += ["|---|---|---|---|---|---|", *map(_row, rows)]
    if drops := [drop for row in rows for drop in row.drops]:
        lines += ["", "## Success rates that dropped", "", *(f"- {drop}" for drop in drops)]
    return "\n".join(lines) + "\n"


def _row(row: BatchTraffic) -> str:
    names = ", ".join(row.workloads[:NAMED])
    if (more := len(row.workloads) - NAMED) > 0:
        names += f" and {more} more"
    result = row.note or ("**dropped**" if row.drops else "ok")
    before, after = (_cell(one) if not row.note else "" for one in (row.before, row.after))
    return f"| {row.number} | {row.phase} | {names} | {before} | {after} | {result} |"


def _cell(measured: Measured) -> str:
    return f"{in_percent(measured)}, {measured.rate:.0f}/s"
