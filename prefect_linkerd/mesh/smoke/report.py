"""The results of smoke tests: typed, as a table and as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from prefect_linkerd.mesh.errors import SmokeTestFailed
from prefect_linkerd.mesh.load.program import Traffic
from prefect_linkerd.mesh.smoke.options import SmokeTest

SmokeOutcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Step:
    """One step of a smoke test: what was done, how it ended, and the details."""

    name: str
    outcome: SmokeOutcome
    detail: str = ""


@dataclass(frozen=True)
class Measurement:
    """Traffic of one client Job."""

    name: str
    traffic: Traffic


@dataclass(frozen=True)
class SmokeResult:
    """One test: its steps in order, the objects that were applied, and what was measured.

    `remedy` says what to do about a failure.
    """

    test: SmokeTest
    steps: tuple[Step, ...]
    objects: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    remedy: str = ""

    @property
    def outcome(self) -> SmokeOutcome:
        """Failed if a step failed; passed only if no step was skipped."""
        outcomes = {step.outcome for step in self.steps}
        if "failed" in outcomes:
            return "failed"
        return "skipped" if "skipped" in outcomes else "passed"

    @property
    def reason(self) -> str:
        """The details of the steps that decided the outcome, each once; empty if it passed."""
        telling = [step.detail for step in self.steps if step.outcome == self.outcome]
        return "; ".join(dict.fromkeys(telling)) if self.outcome != "passed" else ""


@dataclass(frozen=True)
class SmokeReport:
    """Every test that was run on a mesh."""

    mesh: str
    linkerd: str
    results: tuple[SmokeResult, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether no test failed; a skipped test does not count as failed, but proves nothing."""
        return all(result.outcome != "failed" for result in self.results)

    @property
    def skipped(self) -> str:
        """What was skipped and why, in one line."""
        reasons: dict[str, list[str]] = {}
        for result in self.results:
            if result.outcome == "skipped":
                reasons.setdefault(result.reason, []).append(result.test)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def require_smoke(report: SmokeReport) -> SmokeReport:
    """Returns a report without failures.

    Raises:
        SmokeTestFailed: naming every test that failed, and why.
    """
    failed = [result for result in report.results if result.outcome == "failed"]
    if failed:
        raise SmokeTestFailed(
            f"mesh {report.mesh}",
            expected="every smoke test to pass",
            found=" | ".join(f"{result.test}: {result.reason}" for result in failed),
            remedy=" ".join(dict.fromkeys(result.remedy for result in failed if result.remedy)),
        )
    return report


def smoke_table(results: Sequence[SmokeResult]) -> list[dict[str, str]]:
    """One row for every step."""
    return [
        {
            "test": result.test,
            "step": step.name,
            "outcome": step.outcome,
            "detail": step.detail,
        }
        for result in results
        for step in result.steps
    ]


def traffic_table(result: SmokeResult) -> list[dict[str, str]]:
    """One row for every measurement: counts by backend, success and latency."""
    return [
        {
            "measurement": measurement.name,
            "requests": str(measurement.traffic.sent),
            "success": f"{measurement.traffic.success_rate:.2%}",
            "backends": _by_backend(measurement.traffic),
            "latency (ms)": _latency(measurement.traffic),
        }
        for measurement in result.measurements
    ]


def _by_backend(traffic: Traffic) -> str:
    return ", ".join(f"{name} {traffic.answered(name)}" for name in sorted(traffic.backends))


def _latency(traffic: Traffic) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in traffic.latency_ms.items())


def smoke_markdown(report: SmokeReport) -> str:
    """The whole report as a page."""
    lines = [f"# Smoke tests of mesh {report.mesh}", "", f"{report.linkerd}", ""]
    lines += ["| test | outcome | |", "|---|---|---|"]
    lines += [
        f"| {result.test} | {result.outcome} | {_cell(result.reason)} |"
        for result in report.results
    ]
    for result in report.results:
        lines += ["", *_section(result)]
    return "\n".join(lines) + "\n"


def smoke_test_markdown(result: SmokeResult) -> str:
    """One test as a page."""
    return "\n".join(_section(result)) + "\n"


def _section(result: SmokeResult) -> list[str]:
    lines = [f"## {result.test}: {result.outcome}", ""]
    lines += ["| step | outcome | |", "|---|---|---|"]
    lines += [f"| {s.name} | {s.outcome} | {_cell(s.detail)} |" for s in result.steps]
    if rows := traffic_table(result):
        lines += ["", f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
        lines += [f"| {' | '.join(map(_cell, row.values()))} |" for row in rows]
    if result.remedy:
        lines += ["", result.remedy]
    return [*lines, "", *(f"- `{name}`" for name in result.objects)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
