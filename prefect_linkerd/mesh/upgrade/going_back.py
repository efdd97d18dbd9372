"""Going back after a completed upgrade, to the former version's revisions in Helm's history.

An upgrade in progress has its own record of the way back, which is deleted when the upgrade
completes. Then only Helm's history is left: the control plane goes back to its newest revision of
another version, and each extension to its newest revision of that version. CRDs stay, as does an
extension without such a revision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.helm.installed import mesh_releases
from prefect_linkerd.mesh.helm.records import Revision, read_releases, revisions
from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import fingerprints
from prefect_linkerd.mesh.planning.chart_split import CONTROL_PLANE, CRDS, OLD
from prefect_linkerd.mesh.planning.desired import BUNDLE_VALUE, differing_keys
from prefect_linkerd.mesh.planning.plan import accept
from prefect_linkerd.mesh.planning.preflight import Finding
from prefect_linkerd.mesh.records.upgrade import RecordedRelease, UpgradeRecord, read_record
from prefect_linkerd.mesh.snapshot.mesh import read_trust_bundle
from prefect_linkerd.mesh.upgrade.path import path_problem

REASON = "somebody asked to go back after it was completed"


@dataclass(frozen=True)
class Return:
    """A release that goes back to a revision; its chart's version now and afterwards."""

    part: str
    revision: int
    before: str
    after: str


@dataclass(frozen=True)
class BackPlan:
    """What goes back to which version, and what stays. `record` is None if nothing can go back."""

    mesh: str
    source: str
    target: str
    steps: tuple[Return, ...]
    stays: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    record: UpgradeRecord | None


def plan_back(
    mesh: str,
    histories: Mapping[str, Sequence[Revision]],
    trusted: str,
    now: datetime,
    accepted: frozenset[str] = frozenset(),
) -> BackPlan:
    """Plans the way back of a mesh whose upgrade is completed; a pure function of Helm's history.

    Args:
        mesh: the mesh's name.
        histories: the revisions of each part of the mesh that is a release.
        trusted: the mesh's trust bundle (PEM).
    """
    current = {part: found for part, each in histories.items() if (found := _current(each))}
    plane = current.get(CONTROL_PLANE) or current.get(OLD)
    if plane is None:
        finding = _nowhere(mesh, "no control plane is deployed")
        return BackPlan(mesh, "", "", (), (), (finding,), None)
    part = CONTROL_PLANE if CONTROL_PLANE in current else OLD
    former = _former(histories[part], plane)
    if former is None:
        why = f"Helm keeps no revision of {part} that {plane.app_version} could have come from"
    elif former.chart != plane.chart:
        why = f"before {plane.app_version} it was one chart ({former.chart}), whose record is gone"
    else:
        why = ""
    if former is None or why:
        finding = _nowhere(mesh, why)
        return BackPlan(mesh, "", plane.app_version, (), (), (finding,), None)
    goes, stays = {part: former}, list[tuple[str, str]]()
    for name in EXTENSION_CHARTS:
        if (now_there := current.get(name)) is None:
            continue
        back = _at(histories[name], now_there, former.app_version)
        if now_there.app_version == former.app_version:
            stays.append((name, f"it is at {former.app_version} already"))
        elif back is None:
            stays.append((name, f"Helm keeps no revision of it at {former.app_version}"))
        else:
            goes[name] = back
    if CRDS in current:
        stays.append((CRDS, "newer CRDs serve an older control plane as well"))
    steps = tuple(
        Return(name, to.number, current[name].chart_version, to.chart_version)
        for name, to in goes.items()
    )
    findings = [
        *_bundle(former, trusted),
        *(each for name, to in goes.items() for each in _values(current[name], to)),
    ]
    record = UpgradeRecord(
        source=former.app_version,
        target=plane.app_version,
        started=now,
        releases=tuple(RecordedRelease.of(name, to) for name, to in goes.items()),
        direction="back",
        reason=REASON,
        was_completed=True,
    )
    source, target = former.app_version, plane.app_version
    return BackPlan(mesh, source, target, steps, tuple(stays), accept(findings, accepted), record)


def inspect_way_back(mesh: Mesh, accepted: frozenset[str]) -> BackPlan | None:
    """Reads Helm's history and plans the way back; None if an upgrade is in progress."""
    if read_record(mesh) is not None:
        return None
    cluster = mesh.cluster
    installed = mesh_releases(mesh.config, read_releases(cluster), {}).releases
    histories = {
        part: revisions(cluster, release.name, release.namespace)
        for part, release in installed.items()
        if release.status != "uninstalled"
    }
    return plan_back(mesh.name, histories, read_trust_bundle(mesh), cluster.clock(), accepted)


def _current(revisions: Sequence[Revision]) -> Revision | None:
    deployed = [revision for revision in revisions if revision.status == "deployed"]
    return max(deployed, key=lambda revision: revision.number, default=None)


def _former(revisions: Sequence[Revision], current: Revision) -> Revision | None:
    """The newest earlier revision of another version that the current version can follow.

    None if the current version is not one of Linkerd's, such as a vendor's.
    """

    target = LinkerdVersion.find(current.app_version)

    def precedes(revision: Revision) -> bool:
        source = LinkerdVersion.find(revision.app_version)
        if source is None or target is None or source == target:
            return False
        # A failed upgrade leaves revisions of newer versions as well.
        return path_problem(source, target) is None

    found = [each for each in _earlier(revisions, current) if precedes(each)]
    return max(found, key=lambda revision: revision.number, default=None)


def _at(revisions: Sequence[Revision], current: Revision, version: str) -> Revision | None:
    """The newest earlier revision of the given version."""
    found = [each for each in _earlier(revisions, current) if each.app_version == version]
    return max(found, key=lambda revision: revision.number, default=None)


def _earlier(revisions: Sequence[Revision], current: Revision) -> Iterator[Revision]:
    """Earlier revisions in Helm's history that were once deployed successfully."""
    return (
        revision
        for revision in revisions
        if revision.number < current.number and revision.status == "superseded"
    )


def _nowhere(mesh: str, why: str) -> Finding:
    return Finding(
        "no-way-back",
        "error",
        f"mesh {mesh}",
        why,
        "Restore the former version from a backup of the cluster: Helm cannot go back to it.",
    )


def _bundle(former: Revision, trusted: str) -> Iterator[Finding]:
    """Findings if the former revision does not trust every anchor that the mesh trusts now."""
    subject = f"Helm release {former.ref}"
    then = str(former.values.get(BUNDLE_VALUE, ""))
    try:
        # Without this value the bundle is not the chart's.
        lacking = fingerprints(trusted, subject) - fingerprints(then, subject) if then else ()
    except MeshError as error:
        yield Finding("trust-bundle", "error", subject, str(error), "Fix the trust bundle first.")
        return
    if lacking:
        yield Finding(
            "trust-bundle",
            "error",
            subject,
            f"revision {former.number} does not trust anchor sha256 {', '.join(sorted(lacking))}: "
            "it was rotated in after that revision",
            "Stay at this version: going back would cut the mesh's identities off their anchor.",
        )


def _values(current: Revision, former: Revision) -> Iterator[Finding]:
    """A warning about values that were changed since and go back with the release."""
    keys = [key for key in differing_keys(former.values, current.values) if key != BUNDLE_VALUE]
    if keys:
        yield Finding(
            "values",
            "warning",
            f"Helm release {former.ref}",
            f"goes back to the values of revision {former.number}, which differ in "
            f"{', '.join(keys[:20])}",
            "Set them again with bootstrap afterwards, if you need them.",
        )


def back_markdown(plan: BackPlan) -> str:
    """Renders the plan as a Markdown page."""
    lines = [
        f"# Mesh {plan.mesh}: back from {plan.target} to {plan.source or 'nothing'} (plan)",
        "",
    ]
    if plan.findings:
        lines += ["## Findings", ""]
        lines += [f"- **{f.severity}** `{f.id}` {f}" for f in plan.findings]
        lines.append("")
    if plan.steps:
        lines += ["## Goes back", "", "| release | now | then | revision |", "|---|---|---|---|"]
        lines += [f"| {s.part} | {s.before} | {s.after} | {s.revision} |" for s in plan.steps]
        lines += ["", "The data plane is restarted with the former proxies, batch by batch."]
    if plan.stays:
        lines += ["", "## Stays", "", "| | why |", "|---|---|"]
        lines += [f"| {name} | {why} |" for name, why in plan.stays]
    return "\n".join(lines) + "\n"
