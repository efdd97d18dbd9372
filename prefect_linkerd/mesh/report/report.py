"""What a verification found: one typed report, in formats for people and scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from prefect_linkerd.mesh.checks.check import (
    HINTS,
    Category,
    CategoryResult,
    CheckResult,
    run_checks,
)
from prefect_linkerd.mesh.checks.options import Scope
from prefect_linkerd.mesh.errors import MeshUnhealthy
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.helm.rehearsal import HEAD
from prefect_linkerd.mesh.kubernetes.collector import paused_collector
from prefect_linkerd.mesh.report.timeline import expiry_table
from prefect_linkerd.mesh.snapshot.expiry import Expiry, expiries
from prefect_linkerd.mesh.snapshot.mesh import Snapshot

Verdict = Literal["healthy", "degraded", "failed"]

_SHOWN = 20
"""How many problems of one check are listed; the rest are counted."""


@dataclass(frozen=True)
class Report:
    """Whether a mesh is healthy, what will break and when, and what to do.

    `expiries` are all certificates found, the first to expire first; `pods` counts the cluster's
    pods and `proxies` the meshed ones. `ignored` are ids of checks that are shown but do not count.
    `releases` are Helm's. `is_rehearsal`: the mesh was installed from stand-ins for Linkerd's
    charts.
    """

    mesh: str
    linkerd: str
    kubernetes: str
    taken: datetime
    categories: tuple[CategoryResult, ...]
    expiries: tuple[Expiry, ...]
    pods: int
    proxies: int
    ignored: frozenset[str] = frozenset()
    releases: tuple[Release, ...] = ()
    is_rehearsal: bool = False

    @property
    def results(self) -> Iterator[CheckResult]:
        return (result for category in self.categories for result in category.results)

    @property
    def counts(self) -> Counter[str]:
        """The number of checks with each outcome; ignored ones count as `ignored`."""
        return Counter(map(self.outcome, self.results))

    def outcome(self, result: CheckResult) -> str:
        return "ignored" if self.is_ignored(result) else result.outcome

    def is_ignored(self, result: CheckResult) -> bool:
        return bool(result.problems) and result.check.id in self.ignored

    @property
    def verdict(self) -> Verdict:
        counts = self.counts
        if counts["error"]:
            return "failed"
        return "degraded" if counts["warning"] else "healthy"

    @property
    def failing(self) -> tuple[CheckResult, ...]:
        """The failing checks that are not ignored, errors first."""
        bad = [r for r in self.results if r.problems and not self.is_ignored(r)]
        return tuple(sorted(bad, key=lambda result: result.outcome))

    @property
    def exit_code(self) -> int:
        """As for `linkerd check`: 1 if a check failed, else 0, even with warnings."""
        return int(self.verdict == "failed")

    @property
    def summary(self) -> str:
        """One line: the verdict, the counts and the ids of failing checks."""
        counts = self.counts
        text = f"{HEAD}. " if self.is_rehearsal else ""
        text += f"{self.mesh} is {self.verdict}: {counts['success']} checks passed"
        for outcome in ("error", "warning"):
            found = [r.check.id for r in self.failing if r.outcome == outcome]
            if found:
                text += f", {len(found)} {outcome}{'s' if len(found) > 1 else ''}"
                text += f" ({', '.join(dict.fromkeys(found))})"
        return text


@paused_collector()
def verify(
    snapshot: Snapshot,
    categories: Sequence[Category[Snapshot]],
    scopes: Iterable[Scope],
    ignored: Iterable[str] = (),
) -> Report:
    """Runs every check of the given scopes on a snapshot."""
    return Report(
        mesh=snapshot.config.name,
        linkerd=str(snapshot.version) if "config_maps" not in snapshot.unread else "unknown",
        kubernetes=snapshot.kubernetes,
        taken=snapshot.now,
        categories=run_checks(snapshot, categories, scopes),
        expiries=expiries(snapshot),
        pods=0 if "pods" in snapshot.unread else len(snapshot.pods),
        proxies=0 if "pods" in snapshot.unread else len(snapshot.meshed),
        ignored=frozenset(ignored),
        releases=() if "releases" in snapshot.unread else snapshot.releases,
        is_rehearsal=snapshot.is_rehearsal,
    )


def unhealthy(report: Report) -> MeshUnhealthy:
    """The error for a report with failed checks, with up to three problems of the first."""
    first = next(result for result in report.failing if result.outcome == "error")
    return MeshUnhealthy(
        f"mesh {report.mesh}",
        expected="every check to pass",
        found=f"{report.summary}: {'; '.join(map(str, first.problems[:3]))}",
        remedy="verify_mesh names every problem and its remedy, as the run's artifacts do.",
    )


# For scripts


def as_linkerd_json(report: Report) -> dict[str, Any]:
    """The report in the shape of `linkerd check --output json`; skipped checks are left out.

    A rehearsal's report starts with the key `rehearsal`.

    Source: linkerd2 `pkg/healthcheck/healthcheck_output.go` (CheckOutput).
    """
    return ({"rehearsal": HEAD} if report.is_rehearsal else {}) | {
        "success": report.verdict != "failed",
        "categories": [
            {
                "categoryName": category.name,
                "checks": [_check_json(result) for result in shown],
            }
            for category in report.categories
            if (shown := [r for r in category.results if r.outcome != "skipped"])
        ],
    }


def _check_json(result: CheckResult) -> dict[str, str]:
    found = {"description": result.check.description}
    if result.problems:
        found["hint"] = hint(result)
        found["error"] = "\n".join(map(str, result.problems))
    return found | {"result": result.outcome}


def hint(result: CheckResult) -> str:
    """Where a check is explained: Linkerd's own page for its ids, ours for `pl-` ids."""
    if result.check.id.startswith("pl-"):
        return f"docs/checks.md#{result.check.id}"
    return HINTS + result.check.id


def _explained(result: CheckResult) -> str:
    """A check's id and where it is explained; linked only if the link works from a web page."""
    where = hint(result)
    id_ = f"`{result.check.id}`"
    return f"[{id_}]({where})" if where.startswith("https:") else f"{id_}, see {where}"


def as_text(report: Report, detail: Literal["short", "text", "wide"] = "text") -> str:
    """The report as `linkerd check` prints it.

    Args:
        detail: short: only the failing checks, as `linkerd check -o short`; wide: also
            each check's id, the checks that were skipped and why, and every problem.

    Source: linkerd2 `pkg/healthcheck/healthcheck_output.go` (runChecksTable, runChecksShort).
    """
    signs = {"success": "\u221a", "warning": "\u203c", "error": "\u00d7", "skipped": "-"}
    hidden = {"short": ("success", "skipped"), "text": ("skipped",), "wide": ()}[detail]
    lines: list[str] = [HEAD, ""] if report.is_rehearsal else []
    for category in report.categories:
        shown = [result for result in category.results if result.outcome not in hidden]
        if not shown:
            continue
        lines += [category.name, "-" * len(category.name)]
        for result in shown:
            more = f" ({result.check.id})" if detail == "wide" else ""
            lines.append(f"{signs[result.outcome]} {result.check.description}{more}")
            problems = result.problems if detail == "wide" else _problems(result)
            lines += [f"    {line}" for line in problems]
            lines += [f"    skipped: {result.reason}"] if result.outcome == "skipped" else []
            lines += [f"    see {hint(result)} for hints"] if result.problems else []
        lines.append("")
    status = signs["error" if report.verdict == "failed" else "success"]
    lines.append(f"Status check results are {status}")
    return "\n".join(lines) + "\n"


def _problems(result: CheckResult) -> list[str]:
    texts = [str(problem) for problem in result.problems[:_SHOWN]]
    if (rest := len(result.problems) - _SHOWN) > 0:
        texts.append(f"and {rest} more")
    return texts


# For people


def report_rows(report: Report) -> list[dict[str, str]]:
    """One row for each check, failing ones first.

    The rows have no descriptions, as Prefect's UI does not wrap lines in a table;
    `report_markdown` and `checks_markdown` have them.
    """
    order = {"error": 0, "warning": 1, "skipped": 2, "success": 3}
    return [
        {
            "result": report.outcome(result),
            "check": result.check.id,
            "problems": str(len(result.problems) or ""),
        }
        for result in sorted(report.results, key=lambda result: order[result.outcome])
    ]


def failing_ids(rows: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """The ids of the failing checks, from the rows of an earlier report."""
    return frozenset(row["check"] for row in rows if row["result"] in ("error", "warning"))


def report_markdown(report: Report, before: frozenset[str] | None = None) -> str:
    """The whole report as a Markdown page.

    Args:
        before: the `failing_ids` of the previous report; None if there was none.
    """
    counts = report.counts
    lines = [
        f"# Mesh {report.mesh}: {report.verdict}",
        "",
        f"Linkerd {report.linkerd} on Kubernetes {report.kubernetes}, {report.proxies} of "
        f"{report.pods} pods are meshed. Read {report.taken:%Y-%m-%d %H:%M:%S} UTC.",
        "",
        f"{counts['success']} checks passed, {counts['error']} failed, {counts['warning']} warned, "
        f"{counts['ignored']} ignored, {counts['skipped']} skipped.",
        "",
    ]
    for result in report.failing:
        lines += [
            f"## {result.outcome}: {result.check.description}",
            "",
            _explained(result),
            "",
            *(f"- {text}" for text in _problems(result)),
            "",
        ]
    if before is not None:
        now = failing_ids(report_rows(report))
        lines += ["## Since the last run", ""]
        changes = [f"- new: `{check}`" for check in sorted(now - before)]
        changes += [f"- fixed: `{check}`" for check in sorted(before - now)]
        lines += [*(changes or ["Nothing changed."]), ""]
    if report.expiries:
        lines += ["## Certificates", "", *expiry_table(report.expiries), ""]
    return "\n".join(lines)


def checks_markdown(report: Report) -> str:
    """The checks that do not count as failing, by category: ignored, skipped and passed."""
    lines: list[str] = []
    for title, outcome in (("Ignored", "ignored"), ("Skipped", "skipped"), ("Passed", "success")):
        shown = [
            (category.name, [r for r in category.results if report.outcome(r) == outcome])
            for category in report.categories
        ]
        if not any(results for _, results in shown):
            continue
        lines += [f"## {title}", ""]
        for name, results in shown:
            if results:
                lines += [f"### {name}", "", *(line for r in results for line in _lines(r)), ""]
    return "\n".join(lines)


def _lines(result: CheckResult) -> list[str]:
    line = f"- {result.check.description} (`{result.check.id}`)"
    if result.reason:
        line += f": {result.reason}"
    return [line, *(f"  - {text}" for text in _problems(result))]
