"""What a run would do, of flows whose plan is a few lines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DryRun:
    """What would be done, line by line; nothing was changed."""

    what: str
    lines: tuple[str, ...]


def dry_run_markdown(plan: DryRun) -> str:
    """The same as a page."""
    lines = [f"# {plan.what} (plan)", "", *(f"- {line}" for line in plan.lines)]
    return "\n".join(lines) + "\n"
