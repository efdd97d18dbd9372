"""The plan of an uninstall: a pure function of a snapshot, and the page that shows it.

An uninstall removes what bootstrap made, and the mesh's releases that people installed with plain
Helm. What somebody else owns stays, and so does what others may use: CRDs, namespaces, cert-manager
and Traefik, unless they are asked for. The trust anchor's private key always stays.

Helm deletes everything in a release's manifest, even objects that somebody else owns by now, so the
objects that have to stay are marked in the release's record first (`Gone.keeps`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prefect_linkerd.mesh.config.model import Dependency, MeshConfig
from prefect_linkerd.mesh.helm.installed import MARKS, MeshReleases, Part
from prefect_linkerd.mesh.helm.ownership import OURS, Owner, decide, owner_of, owner_of_release
from prefect_linkerd.mesh.helm.records import Release, ReleaseRef
from prefect_linkerd.mesh.kubernetes.client import Object, name_of
from prefect_linkerd.mesh.kubernetes.permissions import GRANT, Permission, in_words
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS, EXTENSION_CHARTS
from prefect_linkerd.mesh.planning.chart_split import CRD, CRDS
from prefect_linkerd.mesh.planning.plan import accept
from prefect_linkerd.mesh.planning.preflight import Finding
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.records.upgrade import UpgradeRecord
from prefect_linkerd.mesh.uninstall.options import UninstallOptions

SHOWN = 20
"""How many names a finding lists."""

ORDER: tuple[Part, ...] = (*EXTENSION_CHARTS, *reversed(CONTROL_PLANE_CHARTS), CRDS)
"""The order of uninstalling the parts.

Extensions need the control plane's injector and policies, and everything needs the CRDs.
"""


@dataclass(frozen=True)
class Member:
    """An object of a release's manifest; `owner` is who owns the live one, None if it is gone.

    `is_kept` says whether the chart tells Helm to keep it; `permission` is needed to delete it.
    """

    subject: str
    kind: str
    name: str
    owner: Owner | None
    is_kept: bool = False
    permission: Permission | None = None


@dataclass(frozen=True)
class UninstallSnapshot:
    """A plan's input, read once.

    Args:
        installed: the mesh's releases, including extensions that the configuration lacks.
        members: the objects of each release.
        dependencies: the releases of cert-manager and Traefik, of any owner.
        own: live objects outside Helm's releases, of the kinds and names that bootstrap makes.
        certified: Secrets that cert-manager made for Certificates among `own`.
        left_crds: CRDs of Linkerd's charts that an earlier uninstall kept.
        records: records that rotations and upgrades left, deleted after everything but namespaces.
        namespaces: the mesh's namespaces that exist, by name.
        injected: the workloads and bare pods that have a proxy of this mesh, by namespace.
        resources: custom resources of the CRDs that may be deleted, by the CRD's name.
        users: objects outside the mesh that use each dependency.
        content: what others made in each namespace that may be deleted.
        keys: the Secrets in the cluster with keys of trust anchors.
        key: where the trust anchor's key is, in words.
    """

    config: MeshConfig
    installed: MeshReleases
    members: Mapping[ReleaseRef, tuple[Member, ...]] = field(repr=False)
    dependencies: tuple[Release, ...] = ()
    own: tuple[Object, ...] = field(default=(), repr=False)
    left_crds: tuple[Object, ...] = field(default=(), repr=False)
    certified: tuple[Object, ...] = field(default=(), repr=False)
    records: tuple[Object, ...] = field(default=(), repr=False)
    namespaces: Mapping[str, Object] = field(default_factory=dict[str, Object], repr=False)
    injected: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    resources: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    content: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    keys: tuple[str, ...] = ()
    key: str = ""
    rotation: RotationRecord | None = None
    upgrade: UpgradeRecord | None = None
    denied: tuple[Permission, ...] = ()


@dataclass(frozen=True)
class Gone:
    """Something that an uninstall removes: a Helm release, an object or a namespace.

    `keeps` are the objects of a release that Helm must not delete, as kind and name.
    """

    kind: Literal["release", "object", "namespace"]
    subject: str
    release: ReleaseRef | None = None
    api_version: str = ""
    obj_kind: str = ""
    name: str = ""
    namespace: str | None = None
    keeps: tuple[tuple[str, str], ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Stays:
    """Something that stays, and why."""

    subject: str
    reason: str


@dataclass(frozen=True)
class UninstallPlan:
    """What an uninstall would do. `key` says where the trust anchor's private key stays.

    `has_lease` says whether the control plane's namespace exists, which contains the lease.
    """

    mesh: str
    goes: tuple[Gone, ...]
    stays: tuple[Stays, ...]
    findings: tuple[Finding, ...]
    key: str
    has_lease: bool = True

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to remove and no error was found."""
        return not self.goes and not any(f.severity == "error" for f in self.findings)


def plan_uninstall(
    snapshot: UninstallSnapshot, options: UninstallOptions, accepted: frozenset[str] = frozenset()
) -> UninstallPlan:
    """Plans what is removed in which order, what stays and why, and what has to be accepted."""
    stays: list[Stays] = []
    releases = list(_releases(snapshot, options, stays))
    dependencies = list(_dependencies(snapshot, options, stays))
    crds = [gone for gone in releases if gone.name == CRDS]
    crds += _left_crds(snapshot, options, stays)
    mesh = [gone for gone in releases if gone.name != CRDS]
    objects = list(_objects(snapshot, stays))
    front = [gone for gone in objects if gone.obj_kind in _IN_FRONT]
    rest = [gone for gone in objects if gone.obj_kind not in _IN_FRONT]
    records = [_object(obj, "a record of these flows") for obj in snapshot.records]
    gone = {each.name for each in (*mesh, *dependencies)}
    namespaces = list(_namespaces(snapshot, options, stays, gone))
    goes = (*front, *mesh, *rest, *crds, *dependencies, *records, *namespaces)
    stays += [Stays(secret, "it holds a trust anchor's private key") for secret in snapshot.keys]
    findings = [
        *_denied(snapshot),
        *_owned(snapshot),
        *_unfinished(snapshot),
        *_injected(snapshot, goes),
        *_resources(snapshot, goes),
        *_used(snapshot, options, dependencies),
    ]
    return UninstallPlan(
        snapshot.config.name,
        goes,
        tuple(stays),
        accept(findings, accepted),
        snapshot.key,
        _is_there(snapshot.namespaces.get(snapshot.config.namespaces.linkerd)),
    )


_IN_FRONT = ("IngressRoute", "Middleware", "Deployment", "Service", "ServiceAccount")
"""Routes and the demo application, which are removed before the mesh that they need."""


def _is_there(namespace: Object | None) -> bool:
    return namespace is not None and "deletionTimestamp" not in namespace["metadata"]


def _objects(snapshot: UninstallSnapshot, stays: list[Stays]) -> Iterator[Gone]:
    """What these flows made outside Helm's releases; Certificates before their Secrets."""
    if _keeps_control_plane(snapshot):
        # It still needs its issuer.
        return
    for obj in snapshot.own:
        owner = owner_of(obj)
        if owner == OURS:
            yield _object(obj, "made by these flows")
        else:
            stays.append(Stays(name_of(obj), f"it belongs to {owner}"))
    for obj in snapshot.certified:
        yield _object(obj, "made by cert-manager for a Certificate that is deleted")


def _left_crds(
    snapshot: UninstallSnapshot, options: UninstallOptions, stays: list[Stays]
) -> Iterator[Gone]:
    for obj in snapshot.left_crds:
        owner = owner_of(obj)
        if owner.reconciles:
            stays.append(Stays(name_of(obj), f"it belongs to {owner}"))
        elif options.crds and not _keeps_control_plane(snapshot):
            yield _object(obj, f"left by {owner}, which is gone")
        else:
            stays.append(Stays(name_of(obj), "CRDs are deleted only if asked for (crds)"))


def _object(obj: Object, why: str) -> Gone:
    metadata = obj["metadata"]
    return Gone(
        "object",
        name_of(obj),
        api_version=obj["apiVersion"],
        obj_kind=obj["kind"],
        name=metadata["name"],
        namespace=metadata.get("namespace"),
        why=why,
    )


def _releases(
    snapshot: UninstallSnapshot, options: UninstallOptions, stays: list[Stays]
) -> Iterator[Gone]:
    """The mesh's releases that may be uninstalled, in order."""
    installed = snapshot.installed
    for part in ORDER:
        owner = installed.owners.get(part)
        if owner is None:
            continue
        release = installed.releases.get(part)
        subject = f"Helm release {release.ref}" if release is not None else part
        if release is None:
            stays.append(Stays(subject, f"it is not a Helm release: it belongs to {owner}"))
        elif decide(owner, "mesh") == "theirs":
            stays.append(Stays(subject, f"it belongs to {owner}"))
        elif part == CRDS and not options.crds:
            stays.append(Stays(subject, "CRDs are deleted only if asked for (crds)"))
        elif part == CRDS and _keeps_control_plane(snapshot):
            stays.append(Stays(subject, "the control plane stays and needs the CRDs"))
        else:
            yield _release(snapshot, release, part, owner, options, stays)


def _release(
    snapshot: UninstallSnapshot,
    release: Release,
    name: str,
    owner: Owner,
    options: UninstallOptions,
    stays: list[Stays],
) -> Gone:
    keeps: list[tuple[str, str]] = []
    for member in snapshot.members.get(release.ref, ()):
        if (theirs := member.owner) is None:
            continue
        reason = _why_kept(member, theirs, release, options)
        if member.is_kept and not reason:
            reason = "its chart tells Helm to keep it"
        if reason:
            keeps.append((member.kind, member.name))
            stays.append(Stays(member.subject, reason))
    return Gone(
        "release",
        f"Helm release {release.ref}",
        release=release.ref,
        name=name,
        keeps=tuple(keeps),
        why=f"{release.chart} {release.chart_version}, {_made_by(owner)}",
    )


def _made_by(owner: Owner) -> str:
    return "made by these flows" if owner.by == "prefect-linkerd" else f"of {owner}"


def _why_kept(member: Member, owner: Owner, release: Release, options: UninstallOptions) -> str:
    """Why Helm must not delete an object of a release that is uninstalled; empty if it may."""
    is_of_release = owner.release is not None and (owner.release.name, owner.release.namespace) == (
        release.name,
        release.target,
    )
    # A driver marks its release's objects as well, but a driven release is never uninstalled.
    if owner.reconciles or (owner.release is not None and not is_of_release):
        return f"it belongs to {owner}"
    if member.kind == "Namespace":
        return "Helm would delete everything in it"
    if member.kind == CRD and not options.crds:
        return "CRDs are deleted only if asked for (crds)"
    return ""


def _keeps_control_plane(snapshot: UninstallSnapshot) -> bool:
    """Whether there is a control plane that these flows may not uninstall."""
    installed = snapshot.installed
    return any(
        decide(owner, "mesh") == "theirs" or part not in installed.releases
        for part, owner in installed.owners.items()
        if part in CONTROL_PLANE_CHARTS
    )


def _dependencies(
    snapshot: UninstallSnapshot, options: UninstallOptions, stays: list[Stays]
) -> Iterator[Gone]:
    # Traefik first, as it may use cert-manager's certificates.
    for release in sorted(snapshot.dependencies, key=lambda r: r.chart, reverse=True):
        owner = owner_of_release(release)
        subject = f"Helm release {release.ref}"
        if decide(owner, "shared") == "theirs":
            stays.append(Stays(subject, f"it belongs to {owner}"))
        elif release.chart not in options.dependencies:
            stays.append(Stays(subject, "others may use it; it is uninstalled only if asked for"))
        else:
            yield _release(snapshot, release, release.chart, owner, options, stays)


def _namespaces(
    snapshot: UninstallSnapshot,
    options: UninstallOptions,
    stays: list[Stays],
    gone: set[str],
) -> Iterator[Gone]:
    names = snapshot.config.namespaces
    # A namespace has to stay if its release stays.
    charts: tuple[Part | Dependency, ...] = (*EXTENSION_CHARTS, "cert-manager", "traefik")
    needed = {names.of_chart(chart): chart for chart in charts}
    present = {*snapshot.installed.owners, *(r.chart for r in snapshot.dependencies)}
    for name, obj in snapshot.namespaces.items():
        subject, owner = f"Namespace/{name}", owner_of(obj)
        keys = [key for key in snapshot.keys if key.split("/")[1] == name]
        if decide(owner, "shared") == "theirs":
            stays.append(Stays(subject, f"it belongs to {owner}"))
        elif not options.namespaces:
            stays.append(Stays(subject, "namespaces are deleted only if asked for (namespaces)"))
        elif keys:
            stays.append(Stays(subject, f"the trust anchor's key is in it: {', '.join(keys)}"))
        elif name == names.linkerd and _keeps_control_plane(snapshot):
            stays.append(Stays(subject, "the control plane in it stays"))
        elif (part := needed.get(name)) in present and part not in gone:
            stays.append(Stays(subject, f"{part} is in it"))
        elif found := snapshot.content.get(name, ()):
            stays.append(Stays(subject, f"it contains objects that others made: {_some(found)}"))
        else:
            yield Gone(
                "namespace",
                subject,
                api_version="v1",
                obj_kind="Namespace",
                name=name,
                why="made by these flows",
            )


# Findings


def _denied(snapshot: UninstallSnapshot) -> Iterator[Finding]:
    if snapshot.denied:
        yield Finding("permissions", "error", "permissions", in_words(snapshot.denied), GRANT)


def _owned(snapshot: UninstallSnapshot) -> Iterator[Finding]:
    installed = snapshot.installed
    for part, owner in installed.owners.items():
        if part not in CONTROL_PLANE_CHARTS:
            continue
        if decide(owner, "mesh") == "theirs":
            yield Finding(
                "driven",
                "error",
                f"mesh {snapshot.config.name}",
                f"its control plane belongs to {owner}",
                "Uninstall it there, then run uninstall again for what bootstrap made.",
            )
        elif part not in installed.releases:
            _, kind, name = MARKS[part]
            yield Finding(
                "no-release",
                "error",
                f"{kind}/{snapshot.config.namespaces.linkerd}/{name}",
                f"it is in no release of Linkerd's charts: it belongs to {owner}",
                "Uninstall it the way it was installed, then run uninstall again.",
            )


def _unfinished(snapshot: UninstallSnapshot) -> Iterator[Finding]:
    subject = f"mesh {snapshot.config.name}"
    if (rotation := snapshot.rotation) is not None and rotation.is_open:
        yield Finding(
            "unfinished",
            "error",
            subject,
            f"the rotation that began on {rotation.begun} is not finished: the keys of both "
            "anchors stay where they are",
            "Finish it with rotate_anchor, or accept this.",
            acceptable=True,
        )
    if (upgrade := snapshot.upgrade) is not None:
        yield Finding(
            "unfinished",
            "error",
            subject,
            f"the upgrade from {upgrade.source} to {upgrade.target} is not finished",
            "Finish it with upgrade, or accept this.",
            acceptable=True,
        )


def _injected(snapshot: UninstallSnapshot, goes: Sequence[Gone]) -> Iterator[Finding]:
    """Workloads that keep a proxy although its control plane is uninstalled."""
    if not any(each.name in CONTROL_PLANE_CHARTS for each in goes if each.kind == "release"):
        return
    gone = {each.subject for each in goes if each.kind == "object"}
    names = snapshot.config.namespaces
    own = {names.of_chart(g.name) for g in goes if g.kind == "release"}
    left = [
        subject
        for namespace, subjects in sorted(snapshot.injected.items())
        if namespace not in own
        for subject in subjects
        if subject not in gone
    ]
    if left:
        yield Finding(
            "injected",
            "error",
            f"mesh {snapshot.config.name}",
            f"workloads that still have a proxy of this mesh ({len(left)}): {_some(left)}. Without "
            "a control plane their certificates expire within a day, and new pods start without a "
            "proxy",
            "Remove annotation linkerd.io/inject from them and their namespaces and restart them, "
            "or accept this.",
            acceptable=True,
        )


def _resources(snapshot: UninstallSnapshot, goes: Sequence[Gone]) -> Iterator[Finding]:
    gone = {each.name for each in goes if each.obj_kind == CRD}
    for each in goes:
        members = snapshot.members.get(each.release, ()) if each.release is not None else ()
        gone |= {m.name for m in members if m.kind == CRD} - {name for _, name in each.keeps}
    for crd in sorted(gone):
        if found := snapshot.resources.get(crd, ()):
            yield Finding(
                "custom-resources",
                "error",
                f"{CRD}/{crd}",
                f"{len(found)} objects of this kind would be deleted with it: {_some(found)}",
                "Back up those that you need, or accept this.",
                acceptable=True,
            )


def _used(
    snapshot: UninstallSnapshot, options: UninstallOptions, gone: Sequence[Gone]
) -> Iterator[Finding]:
    for name in options.dependencies:
        users = snapshot.users.get(name, ())
        if users and any(each.name == name for each in gone):
            yield Finding(
                "dependency-used",
                "error",
                name,
                f"{len(users)} objects outside the mesh use it: {_some(users)}",
                "Leave it out of the dependencies, or accept this.",
                acceptable=True,
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# The page


def uninstall_markdown(plan: UninstallPlan, *, done: bool = False) -> str:
    """Renders the plan as a Markdown page, or after the run as its report."""
    state = "done" if done else "plan"
    lines = [f"# Mesh {plan.mesh}: uninstall ({state})", ""]
    if plan.findings:
        lines += ["## Findings", ""]
        lines += [f"- **{f.severity}** `{f.id}` {f}" for f in plan.findings]
        lines.append("")
    title = "Removed" if done else "To be removed, in this order"
    if plan.goes:
        lines += [f"## {title}", "", "| | what |", "|---|---|"]
        lines += [f"| {gone.subject} | {gone.why} |" for gone in plan.goes]
    else:
        lines += ["Nothing is left to uninstall."]
    if plan.stays:
        lines += ["", "## Stays", "", "| | why |", "|---|---|"]
        lines += [f"| {stays.subject} | {stays.reason} |" for stays in plan.stays]
    lines += ["", f"The trust anchor's private key stays where it is: {plan.key}."]
    return "\n".join(lines) + "\n"
