"""The page and the event about an upgrade that is over: upgraded or rolled back."""

from __future__ import annotations

from prefect_linkerd.mesh.report.events import Notice
from prefect_linkerd.mesh.report.report import Report
from prefect_linkerd.mesh.upgrade.run import Upgrade

ARRIVED = "linkerd.mesh.upgraded"
WENT_BACK = "linkerd.mesh.upgrade-undone"


def story_markdown(upgrade: Upgrade, verified: Report) -> str:
    """A finished upgrade as a page: releases before, verification, and why it went back."""
    record, mesh = upgrade.record, upgrade.goal
    is_back = upgrade.is_going_back
    lines = [
        f"# Mesh {mesh.name}: {'back at' if is_back else 'upgraded to'} {mesh.config.version}",
        "",
        f"Started at {record.started:%Y-%m-%d %H:%M} UTC, from {record.source} to {record.target}.",
        *(["", "## Why it went back", "", record.reason] if is_back else []),
        *("", "## Before", "", "| release | chart | version | revision |", "|---|---|---|---|"),
        *(
            f"| {r.namespace}/{r.name} | {r.chart} | {r.chart_version} | {r.revision} |"
            for r in record.releases
        ),
        *("", "## Verified", "", verified.summary, ""),
        *(f"- **{r.outcome}** `{r.check.id}` {r.problems[0]}" for r in verified.failing),
    ]
    if pinned := [f for f in upgrade.plan.findings if f.id.startswith("pinned-")]:
        lines += ["", "## Left alone", "", *(f"- {f.subject}: {f.message}" for f in pinned)]
    return "\n".join([*lines, *upgrade.probe.outcome.markdown()]) + "\n"


def upgrade_notice(upgrade: Upgrade) -> Notice:
    """`linkerd.mesh.upgraded`, or `.upgrade-undone` if the mesh is back at its former version."""
    record = upgrade.record
    return Notice(
        WENT_BACK if upgrade.is_going_back else ARRIVED,
        upgrade.goal.name,
        {
            "from": record.source,
            "to": record.target,
            "reason": record.reason,
            "requests": upgrade.probe.outcome.payload,
        },
    )
