"""What a run would do, for flows whose plan is only a few lines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DryRun:
    """What a run would do, line by line; nothing was changed."""

    what: str
    lines: tuple[str, ...]


def dry_run_markdown(plan: DryRun) -> str:
    """Renders the plan as a Markdown page."""
    lines = [f"# {plan.what} (plan)", "", *(f"- {line}" for line in plan.lines)]
    return "\n".join(lines) + "\n"
