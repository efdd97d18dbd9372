"""The plan of bootstrap: what is read, what follows from it, and the page that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.chart_changes import (
    crd_changes,
    has_newer_crds,
    meaningful,
    values_change,
)
from prefect_linkerd.mesh.helm.client import DesiredRelease, decide_release
from prefect_linkerd.mesh.helm.records import Release, Revision
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.identity.trust_anchor import Origin
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.planning.losses import ReleaseChange, losses
from prefect_linkerd.mesh.planning.plan import (
    Action,
    ChartStep,
    Plan,
    accept,
    changes_section,
    differences_section,
    findings_section,
    gateway_api,
    releases_section,
    require_acceptable,
)
from prefect_linkerd.mesh.planning.preflight import Finding
from prefect_linkerd.mesh.planning.value_changes import (
    ChangedValue,
    changed_values,
    values_section,
)


@dataclass(frozen=True)
class BootstrapSnapshot:
    """What a plan is made from, read once.

    `wanted` are the releases that bootstrap would have, `current` the existing ones by
    `namespace/name`, `installed` their deployed revisions by chart. `changes` compare the two,
    `crds` are the CRDs of the releases, `trusted` is the mesh's trust bundle (PEM), and
    `new_namespaces` are those that would be created.
    """

    config: MeshConfig
    facts: ClusterFacts
    now: datetime
    wanted: Sequence[DesiredRelease] = field(repr=False)
    current: Mapping[str, Release]
    installed: Mapping[str, Revision]
    changes: Sequence[ReleaseChange]
    findings: Sequence[Finding]
    trusted: str
    anchor: Origin
    crds: Sequence[Object] = ()
    new_namespaces: Sequence[str] = ()
    accepted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class BootstrapPlan(Plan):
    """Everything that bootstrap would do, and what it found.

    `anchor` says where the trust anchor comes from.
    """

    version: str
    anchor: Origin
    namespaces: tuple[str, ...]
    changed_values: tuple[ChangedValue, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether no release or namespace has to change, and no finding is an error."""
        is_refused = any(finding.severity == "error" for finding in self.findings)
        return not (self.changes_releases or self.namespaces or is_refused)


def plan_bootstrap(snapshot: BootstrapSnapshot) -> BootstrapPlan:
    """What bootstrap will do: a pure function of what was read."""
    rendered = [obj for change in snapshot.changes for obj in change.rendered]
    objects = [each for change in snapshot.changes for each in change.objects]
    findings = [
        *snapshot.findings,
        *losses(snapshot.changes, snapshot.trusted),
        *(
            Finding(
                "objects",
                "error",
                change.subject,
                f"the API server would refuse it: {change.refused}",
                "Fix what the message names.",
                acceptable=True,
            )
            for change in objects
            if change.refused
        ),
    ]
    values = [
        values_change(name, revision.defaults, wanted.chart.defaults)
        for wanted in snapshot.wanted
        if (revision := snapshot.installed.get(name := wanted.chart.name)) is not None
        and revision.chart_version != wanted.chart.version
        and not has_newer_crds(
            (revision.chart, revision.chart_version), (name, wanted.chart.version)
        )
    ]
    return BootstrapPlan(
        mesh=snapshot.config.name,
        kubernetes=snapshot.facts.version,
        steps=tuple(_step(wanted, snapshot) for wanted in snapshot.wanted),
        crds=tuple(crd_changes(snapshot.crds, rendered)),
        values=tuple(values),
        objects=tuple(meaningful(objects)),
        findings=accept(findings, snapshot.accepted),
        gateway_api=gateway_api(rendered, snapshot.facts),
        version=str(snapshot.config.linkerd),
        anchor=snapshot.anchor,
        namespaces=tuple(snapshot.new_namespaces),
        changed_values=tuple(changed_values(snapshot.changes)),
    )


def _step(wanted: DesiredRelease, snapshot: BootstrapSnapshot) -> ChartStep:
    current = snapshot.current.get(f"{wanted.namespace}/{wanted.name}")
    chart = wanted.chart
    action = next_action(wanted, current, snapshot.now)
    before = current.chart_version if current is not None and action != "install" else ""
    return ChartStep(chart.name, action, before, before if action == "kept" else chart.version)


def next_action(wanted: DesiredRelease, current: Release | None, now: datetime) -> Action:
    """What bootstrap does with a release; it finishes one that a dead run left pending."""
    match decide_release(wanted, current, now, 0.0):
        case "install":
            return "install"
        case "unchanged":
            is_newer = current is not None and has_newer_crds(
                (current.chart, current.chart_version), (wanted.chart.name, wanted.chart.version)
            )
            return "kept" if is_newer else "unchanged"
        case _:
            return "upgrade"


def require_bootstrap_plan(plan: BootstrapPlan) -> BootstrapPlan:
    """Returns a plan that can be carried out.

    Raises:
        PreflightFailed: names every reason why it cannot; nothing was changed.
    """
    require_acceptable(plan.findings, f"bootstrap of mesh {plan.mesh}")
    return plan


_ANCHORS: Mapping[Origin, str] = {
    "made": "made by this run",
    "provided": "the one that the configuration provides",
    "adopted": "the existing one",
}


def bootstrap_markdown(plan: BootstrapPlan) -> str:
    """The whole plan as a page."""
    lines = [f"# Mesh {plan.mesh}: bootstrap of {plan.version} (plan)", ""]
    if plan.is_done:
        lines += ["Every release is as it should be.", ""]
    lines += [*findings_section(plan), *releases_section(plan)]
    lines += [
        "",
        f"Kubernetes {plan.kubernetes}. Gateway API: {plan.gateway_api}. "
        f"Trust anchor: {_ANCHORS[plan.anchor]}. "
        f"New namespaces: {', '.join(plan.namespaces) or 'none'}.",
        *changes_section(plan),
        *values_section(plan.changed_values),
        *differences_section(plan),
    ]
    return "\n".join(lines) + "\n"
