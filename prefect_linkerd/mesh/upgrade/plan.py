"""The plan of an upgrade: its input, the plan itself, and the page that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.helm.chart_changes import (
    CrdChange,
    ObjectChange,
    ValuesChange,
    crd_changes,
    has_newer_crds,
    lost_values,
    meaningful,
    values_change,
)
from prefect_linkerd.mesh.helm.charts import Chart, ChartName
from prefect_linkerd.mesh.helm.ownership import owner_of_release
from prefect_linkerd.mesh.helm.records import Release, Revision
from prefect_linkerd.mesh.helm.values import FIELDS, ClusterFacts, Values
from prefect_linkerd.mesh.install.dependencies import releases_of
from prefect_linkerd.mesh.kubernetes.client import Object, name_of
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS, EXTENSION_CHARTS, release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.linkerd.version_range import admits
from prefect_linkerd.mesh.planning.chart_split import OLD
from prefect_linkerd.mesh.planning.losses import Pin, ReleaseChange, losses, pins
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
from prefect_linkerd.mesh.records.upgrade import UpgradeRecord
from prefect_linkerd.mesh.upgrade.path import path_problem, wants

C = TypeVar("C", bound=MeshConfig)


@dataclass(frozen=True)
class PlanSnapshot:
    """A plan's input, read once.

    `installed` are the mesh's deployed releases by chart, `rendered` the objects of the target's
    charts, `user_values` the extra values for each chart, `findings` preflight's. `behind` is the
    number of pods whose proxy is not of the target's version. `changes` compare each release with
    its next revision, `trusted` is the mesh's trust bundle (PEM), `pins` are the workloads and
    namespaces that keep proxies at a version.
    """

    config: MeshConfig
    source: LinkerdVersion
    target: LinkerdVersion
    facts: ClusterFacts
    installed: Mapping[str, Revision]
    charts: Mapping[ChartName, Chart]
    rendered: Mapping[str, Sequence[Object]]
    user_values: Mapping[str, Values]
    objects: Sequence[ObjectChange]
    crds: Sequence[Object]
    findings: Sequence[Finding]
    traffic_splits: Sequence[Object]
    releases: Sequence[Release]
    behind: int
    record: UpgradeRecord | None = None
    accepted: frozenset[str] = frozenset()
    changes: Sequence[ReleaseChange] = ()
    trusted: str = ""
    pins: Sequence[Pin] = ()


@dataclass(frozen=True)
class UpgradePlan(Plan):
    """Everything that an upgrade would do, and its findings."""

    source: str
    target: str
    behind: int
    resumes: bool

    @property
    def splits(self) -> bool:
        return any(step.action == "split" for step in self.steps)

    @property
    def is_done(self) -> bool:
        """Whether the mesh is already at the target, proxies included."""
        return not (self.changes_releases or self.resumes or self.behind)


def source_version(installed: Mapping[str, Revision], record: UpgradeRecord | None) -> str:
    """The Linkerd version of a mesh; while an upgrade is in progress, the one it started from.

    Raises:
        InvalidInput: Helm has not installed Linkerd.
    """
    if record is not None:
        return record.source
    for name in CONTROL_PLANE_CHARTS:
        if (revision := installed.get(name)) is not None:
            return revision.app_version
    raise InvalidInput(
        "Helm releases",
        expected="a mesh that was installed by Helm: linkerd2 or linkerd-control-plane",
        found=", ".join(sorted(installed)) or "none",
        remedy="Install a mesh with bootstrap. First uninstall one that the linkerd CLI installed.",
    )


def at_version(config: C, version: LinkerdVersion) -> C:
    """A mesh's configuration at another Linkerd version; jaeger is off if that has none."""
    update: dict[str, Any] = {"version": str(version)}
    if "linkerd-jaeger" not in release_facts(version).extensions:
        update["jaeger"] = config.jaeger.model_copy(update={"enabled": False})
    return config.model_copy(update=update)


def check_path(source: LinkerdVersion, target: LinkerdVersion) -> None:
    """Refuses an unreachable target before its charts are looked up.

    Raises:
        InvalidInput: it is a downgrade or skips a minor version.
    """
    if (refusal := path_problem(source, target)) is not None:
        reason, remedy = refusal
        raise InvalidInput(
            f"Linkerd version {target}",
            expected=f"a version that can follow {source}",
            found=reason,
            remedy=remedy,
        )


def plan_upgrade(snapshot: PlanSnapshot) -> UpgradePlan:
    """Plans an upgrade; a pure function of the snapshot."""
    rendered = [obj for objects in snapshot.rendered.values() for obj in objects]
    crds = crd_changes(snapshot.crds, rendered)
    findings = [
        *snapshot.findings,
        *_policy(snapshot),
        *_lost(snapshot),
        *_extensions(snapshot),
        *_dependencies(snapshot),
        *_traffic_splits(snapshot),
        *_crds(crds),
        *_refused(snapshot),
        *losses(snapshot.changes, snapshot.trusted),
        *pins(snapshot.changes, snapshot.pins, str(snapshot.source), str(snapshot.target)),
    ]
    return UpgradePlan(
        mesh=snapshot.config.name,
        source=str(snapshot.source),
        target=str(snapshot.target),
        kubernetes=snapshot.facts.version,
        steps=tuple(_steps(snapshot)),
        crds=tuple(crds),
        values=tuple(_values(snapshot)),
        objects=tuple(meaningful(snapshot.objects)),
        findings=accept(findings, snapshot.accepted),
        gateway_api=gateway_api(rendered, snapshot.facts),
        behind=snapshot.behind,
        resumes=snapshot.record is not None,
    )


def require_plan(plan: UpgradePlan) -> UpgradePlan:
    """Returns the plan if nothing blocks it.

    Raises:
        PreflightFailed: names every blocking finding; nothing was changed.
    """
    require_acceptable(plan.findings, f"upgrade of mesh {plan.mesh} to {plan.target}")
    return plan


def _steps(snapshot: PlanSnapshot) -> list[ChartStep]:
    found: list[ChartStep] = []
    installed = snapshot.installed
    splits = OLD in installed and "linkerd-control-plane" in snapshot.charts
    for name, chart in snapshot.charts.items():
        before = installed.get(name)
        if before is None and splits and name.startswith("linkerd-c"):
            found.append(ChartStep(name, "split", installed[OLD].chart_version, chart.version))
        elif before is None:
            found.append(ChartStep(name, "install", "", chart.version))
        else:
            is_newer = has_newer_crds(
                (before.chart, before.chart_version), (chart.name, chart.version)
            )
            is_same = (before.chart, before.chart_version) == (chart.name, chart.version)
            action: Action = "kept" if is_newer else "unchanged" if is_same else "upgrade"
            after = before.chart_version if is_newer else chart.version
            found.append(ChartStep(name, action, before.chart_version, after))
    if splits:
        found.append(ChartStep(OLD, "split", installed[OLD].chart_version, ""))
    found += [
        ChartStep(name, "uninstall", installed[name].chart_version, "")
        for name in EXTENSION_CHARTS
        if name in installed and name not in snapshot.charts
    ]
    return found


def _values(snapshot: PlanSnapshot) -> list[ValuesChange]:
    found: list[ValuesChange] = []
    for name, chart in snapshot.charts.items():
        before = _before(snapshot, name)
        if before is not None:
            change = values_change(name, before.defaults, chart.defaults, _renamed(snapshot))
            if change.removed or change.renamed or change.added:
                found.append(change)
    return found


def _renamed(snapshot: PlanSnapshot) -> Mapping[str, str]:
    return release_facts(snapshot.target).renamed_values


def _before(snapshot: PlanSnapshot, name: str) -> Revision | None:
    """The revision that a chart replaces; for the control plane, 2.11's single chart if there."""
    old = snapshot.installed.get(OLD) if name == "linkerd-control-plane" else None
    return old or snapshot.installed.get(name)


def _policy(snapshot: PlanSnapshot) -> list[Finding]:
    policy = snapshot.config.upgrade
    if snapshot.target == snapshot.source or wants(policy, snapshot.source, snapshot.target):
        return []
    if policy.channel is None and policy.constraint is None:
        # Without a policy the user who names a version decides.
        return []
    wanted = " ".join(filter(None, (policy.channel, policy.constraint)))
    return [
        Finding(
            "version-policy",
            "error",
            f"Linkerd version {snapshot.target}",
            f"the mesh's upgrade policy wants {wanted}",
            "Choose another version, change upgrade.channel or upgrade.constraint, or accept it.",
            acceptable=True,
        )
    ]


def _lost(snapshot: PlanSnapshot) -> list[Finding]:
    found: list[Finding] = []
    for name, chart in snapshot.charts.items():
        before = _before(snapshot, name)
        if before is None:
            continue
        change = values_change(name, before.defaults, chart.defaults, _renamed(snapshot))
        renamed = dict(change.renamed)
        for key in lost_values(snapshot.user_values.get(name, {}), before.defaults, chart.defaults):
            text = f"it is replaced by {renamed[key]}" if key in renamed else "it was removed"
            found.append(
                Finding(
                    "values",
                    "error",
                    f"value {key} of {name}",
                    f"you set it, but chart {chart.version} does not have it: {text}",
                    f"Set the new one in the extra values ({FIELDS[name]}), or remove it."
                    if key in renamed
                    else f"Remove it from the extra values ({FIELDS[name]}).",
                    acceptable=True,
                )
            )
    return found


def _extensions(snapshot: PlanSnapshot) -> list[Finding]:
    found: list[Finding] = []
    for name in EXTENSION_CHARTS:
        release = snapshot.installed.get(name)
        if release is None or name in snapshot.charts:
            continue
        extension = name.removeprefix("linkerd-")
        is_gone = name not in release_facts(snapshot.target).extensions
        found.append(
            Finding(
                extension,
                "error",
                f"Helm release {release.namespace}/{release.name}",
                (
                    f"{snapshot.target} has no {name}"
                    if is_gone
                    else f"{extension}.enabled is off in the configuration"
                )
                + ", so it would be uninstalled",
                "Accept it. Proxies then export traces as the control plane's value proxy.tracing "
                "says: https://linkerd.io/2/tasks/distributed-tracing/"
                if is_gone
                else f"Set {extension}.enabled to keep it, or accept it.",
                acceptable=True,
            )
        )
    return found


def _dependencies(snapshot: PlanSnapshot) -> list[Finding]:
    found: list[Finding] = []
    for name in snapshot.config.upgrade.dependencies:
        before, chart = snapshot.installed.get(name), snapshot.charts.get(name)
        if before is None or chart is None:
            owners = [owner_of_release(r) for r in releases_of(name, snapshot.releases)]
            theirs = ", ".join(map(str, owners)) or "no Helm release"
            text = f"these flows do not manage it ({theirs}), so it is left as it is"
            remedy = (
                "Leave it out of upgrade.dependencies, or let these flows manage it: set "
                f"{name.replace('-', '_')}.install and .adopt to true."
            )
            found.append(Finding("dependency", "warning", name, text, remedy))
            continue
        if admits(f">={before.chart_version}", chart.version) is False:
            found.append(
                Finding(
                    "dependency",
                    "error",
                    f"Helm release {before.namespace}/{before.name}",
                    f"chart version {chart.version} is older than {before.chart_version}, and a "
                    "downgrade is not supported",
                    f"Set {name.replace('-', '_')}.version to a newer one, or leave it out of "
                    "upgrade.dependencies.",
                )
            )
    return found


def _traffic_splits(snapshot: PlanSnapshot) -> list[Finding]:
    source, target = release_facts(snapshot.source), release_facts(snapshot.target)
    has_adaptor = any(release.chart == "linkerd-smi" for release in snapshot.releases)
    if not snapshot.traffic_splits or has_adaptor or target.splits_by("TrafficSplit"):
        return []
    names = ", ".join(name_of(obj) for obj in snapshot.traffic_splits[:5])
    more = len(snapshot.traffic_splits) - 5
    # If the source version ignores them too, nothing changes.
    severity = "error" if source.splits_by("TrafficSplit") else "warning"
    remedy = (
        "Install the linkerd-smi extension first: https://linkerd.io/2.12/tasks/linkerd-smi/"
        if not target.splits_by("HTTPRoute")
        else "Replace each with an HTTPRoute with weighted backendRefs, shown below, or install "
        "linkerd-smi: https://linkerd.io/2.14/features/traffic-split/"
    )
    return [
        Finding(
            "smi",
            severity,
            names + (f" and {more} more" if more > 0 else ""),
            f"{snapshot.target} ignores TrafficSplits: all traffic would go to the Service that "
            "is split",
            remedy,
            acceptable=True,
        )
    ]


def http_route(split: Object) -> Object:
    """The HTTPRoute that replaces a TrafficSplit, from Linkerd 2.13 on.

    Its ports have to be filled in: a TrafficSplit applies to all ports of a Service.

    Source: https://linkerd.io/2.13/features/httproute/
    """
    spec: dict[str, Any] = split["spec"]
    return {
        "apiVersion": "policy.linkerd.io/v1beta2",
        "kind": "HTTPRoute",
        "metadata": {
            "name": split["metadata"]["name"],
            "namespace": split["metadata"]["namespace"],
        },
        "spec": {
            "parentRefs": [
                {"group": "core", "kind": "Service", "name": spec["service"], "port": "PORT"}
            ],
            "rules": [
                {
                    "backendRefs": [
                        {
                            "name": backend["service"],
                            "port": "PORT",
                            # v1alpha1 writes weights as quantities too: 500m.
                            "weight": int(str(backend.get("weight", 0)).removesuffix("m")),
                        }
                        for backend in spec.get("backends", [])
                    ]
                }
            ],
        },
    }


def _crds(changes: Sequence[CrdChange]) -> list[Finding]:
    return [
        Finding(
            "crd-versions",
            "error",
            f"CustomResourceDefinition/{change.name}",
            f"the new one no longer serves {', '.join(change.served_removed)}, which the current "
            "control plane and custom resources may use",
            "Move the custom resources to a newer version first; then you cannot go back.",
        )
        for change in changes
        if change.served_removed
    ]


def _refused(snapshot: PlanSnapshot) -> list[Finding]:
    return [
        Finding(
            "objects",
            "error",
            change.subject,
            f"the API server would refuse it: {change.refused}",
            "Fix what the message names.",
            acceptable=True,
        )
        for change in snapshot.objects
        if change.refused
    ]


def plan_markdown(plan: UpgradePlan, traffic_splits: Sequence[Object] = ()) -> str:
    """Renders the whole plan as a Markdown page."""
    head = "resumed" if plan.resumes else "plan"
    lines = [f"# Mesh {plan.mesh}: upgrade from {plan.source} to {plan.target} ({head})", ""]
    if plan.is_done:
        lines += ["The mesh is already at the target: there is nothing to do.", ""]
    lines += [*findings_section(plan), *releases_section(plan)]
    lines += [
        "",
        f"Kubernetes {plan.kubernetes}. Gateway API: {plan.gateway_api}. "
        f"Pods with a proxy of another version, to be restarted in batches: {plan.behind}.",
    ]
    if plan.splits:
        lines += [
            "",
            "The one chart of 2.11 becomes two. No CRD or custom resource is deleted; the trust "
            "anchor and the issuer stay; the record of release linkerd2 is deleted last.",
        ]
    lines += changes_section(plan)
    for split in traffic_splits:
        lines += ["", f"## Instead of {name_of(split)}", "", "```yaml"]
        lines += [yaml.safe_dump(http_route(split), sort_keys=False).rstrip(), "```"]
    lines += differences_section(plan)
    return "\n".join(lines) + "\n"
