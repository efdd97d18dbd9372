"""What a verification found: one typed report, in the forms that people and scripts read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from mesh.checks.check import HINTS, Category, CategoryResult, CheckResult, Scope, run_checks
from mesh.expiry import Expiry, expiries
from mesh.snapshot import Snapshot

Verdict = Literal["healthy", "degraded", "failed"]


@dataclass(frozen=True)
class Report:
    """Whether a mesh is healthy, what will break and when, and what to do.

    `expiries` are all certificates that were found, the first to end first; `proxies` counts the
    meshed pods.
    """

    mesh: str
    linkerd: str
    kubernetes: str
    taken: datetime
    categories: tuple[CategoryResult, ...]
    expiries: tuple[Expiry, ...]
    pods: int
    proxies: int

    @property
    def results(self) -> Iterator[CheckResult]:
        return (result for category in self.categories for result in category.results)

    @property
    def counts(self) -> Counter[str]:
        """How many checks ended with each outcome."""
        return Counter(result.outcome for result in self.results)

    @property
    def verdict(self) -> Verdict:
        counts = self.counts
        if counts["error"]:
            return "failed"
        return "degraded" if counts["warning"] else "healthy"

    @property
    def failing(self) -> tuple[CheckResult, ...]:
        """The checks that did not hold, errors first."""
        bad = [result for result in self.results if result.outcome in ("error", "warning")]
        return tuple(sorted(bad, key=lambda result: result.outcome))

    @property
    def exit_code(self) -> int:
        """That of `linkerd check`: 1 where a check failed, 0 also with warnings."""
        return int(self.verdict == "failed")


def verify(snapshot: Snapshot, categories: Sequence[Category], scopes: Iterable[Scope]) -> Report:
    """Judges a snapshot by every check of the given scopes."""
    return Report(
        mesh=snapshot.config.name,
        linkerd=str(snapshot.version) if "config_maps" not in snapshot.unread else "unknown",
        kubernetes=snapshot.kubernetes,
        taken=snapshot.now,
        categories=run_checks(snapshot, categories, scopes),
        expiries=expiries(snapshot),
        pods=0 if "pods" in snapshot.unread else len(snapshot.pods),
        proxies=0 if "pods" in snapshot.unread else len(snapshot.meshed),
    )


def as_linkerd_json(report: Report) -> dict[str, Any]:
    """The report in the shape of `linkerd check --output json`; skipped checks are left out.

    Source: linkerd2 `pkg/healthcheck/healthcheck_output.go` (CheckOutput).
    """
    return {
        "success": report.verdict != "failed",
        "categories": [
            {
                "categoryName": category.name,
                "checks": [
                    _check_json(result)
                    for result in category.results
                    if result.outcome != "skipped"
                ],
            }
            for category in report.categories
        ],
    }


def _check_json(result: CheckResult) -> dict[str, str]:
    found = {"description": result.check.description}
    if result.problems:
        found["hint"] = HINTS + result.check.id
        found["error"] = "\n".join(map(str, result.problems))
    return found | {"result": result.outcome}
