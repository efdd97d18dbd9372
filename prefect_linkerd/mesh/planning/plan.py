"""The parts that the plans of upgrade and bootstrap share: releases, changes, findings, page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from prefect_linkerd.mesh.errors import PreflightFailed
from prefect_linkerd.mesh.helm.chart_changes import CrdChange, ObjectChange, ValuesChange
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.linkerd.facts import GATEWAY_API
from prefect_linkerd.mesh.planning.preflight import Finding

Action = Literal["upgrade", "install", "split", "uninstall", "unchanged", "kept"]


@dataclass(frozen=True)
class ChartStep:
    """What happens to one release; `before` and `after` are its chart's version, empty for none.

    `kept` is a release of CRDs that is newer than the wanted one and stays as it is.
    """

    name: str
    action: Action
    before: str
    after: str


@dataclass(frozen=True)
class Plan:
    """Everything that a run would do to a mesh's releases, and what it found."""

    mesh: str
    kubernetes: str
    steps: tuple[ChartStep, ...]
    crds: tuple[CrdChange, ...]
    values: tuple[ValuesChange, ...]
    objects: tuple[ObjectChange, ...] = field(repr=False)
    findings: tuple[Finding, ...]
    gateway_api: str

    @property
    def changes_releases(self) -> bool:
        return any(step.action not in ("unchanged", "kept") for step in self.steps)


def accept(findings: Iterable[Finding], accepted: Collection[str]) -> tuple[Finding, ...]:
    """Turns the findings that a person has accepted into warnings."""
    return tuple(
        replace(finding, severity="warning", remedy="Accepted.")
        if finding.acceptable and finding.severity == "error" and finding.id in accepted
        else finding
        for finding in findings
    )


def require_acceptable(findings: Iterable[Finding], what: str) -> None:
    """Lets warnings pass, which include accepted findings, and refuses errors.

    Args:
        what: what the findings are about, such as `bootstrap of mesh m`.

    Raises:
        PreflightFailed: names every error; nothing was changed.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    ids = sorted({finding.id for finding in errors if finding.acceptable})
    hint = f" A person may accept {', '.join(ids)} (accept; --accept in a terminal)." if ids else ""
    raise PreflightFailed(
        what,
        expected="no blocking findings",
        found=" | ".join(str(finding) for finding in errors),
        remedy=f"Nothing was changed. Fix these, then run again.{hint}",
    )


def gateway_api(rendered: Iterable[Object], facts: ClusterFacts) -> str:
    """Says what happens to the Gateway API's CRDs.

    Args:
        rendered: every object that the mesh's releases would contain.
    """
    is_ours = any(
        obj["kind"] == "CustomResourceDefinition" and obj["spec"]["group"] == GATEWAY_API
        for obj in rendered
    )
    owner = facts.gateway_api_owner
    if is_ours and owner:
        return f"owned by {owner}, and upgraded with it"
    if is_ours:
        return "installed with linkerd-crds"
    return f"owned by {owner}, and left alone" if owner else "not installed"


def findings_section(plan: Plan) -> list[str]:
    if not plan.findings:
        return []
    lines = [f"- **{item.severity}** `{item.id}` {item}" for item in plan.findings]
    return ["## Findings", "", *lines, ""]


def releases_section(plan: Plan) -> list[str]:
    lines = ["## Releases", "", "| release | what | before | after |", "|---|---|---|---|"]
    return lines + [f"| {s.name} | {s.action} | {s.before} | {s.after} |" for s in plan.steps]


def changes_section(plan: Plan) -> list[str]:
    """CRDs, default values and objects, without the objects' diffs."""
    lines: list[str] = []
    if plan.crds:
        lines += ["", "## CRDs", "", "| CRD | what | newly served | no longer served | storage |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| {c.name} | {c.change} | {', '.join(c.served_added)} "
            f"| {', '.join(c.served_removed)} | {c.storage} |"
            for c in plan.crds
        ]
    for change in plan.values:
        lines += ["", f"## Values of {change.chart}", ""]
        lines += [f"- renamed: `{old}` is now `{new}`" for old, new in change.renamed]
        lines += [f"- removed: `{key}`" for key in change.removed]
        if change.added:
            lines.append(f"- added: {', '.join(f'`{key}`' for key in change.added)}")
    if plan.objects:
        lines += ["", "## Objects", "", "| object | what | fields |", "|---|---|---|"]
        lines += [f"| {o.subject} | {o.change} | {_some(o.fields)} |" for o in plan.objects]
    return lines


def differences_section(plan: Plan) -> list[str]:
    lines: list[str] = []
    for change in plan.objects:
        if change.diff:
            lines += ["", f"### {change.subject}", "", "```diff", change.diff, "```"]
    return lines


def _some(fields: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(fields) - limit} more" if len(fields) > limit else ""
    return ", ".join(f"`{path}`" for path in fields[:limit]) + more
