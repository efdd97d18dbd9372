"""The plan of a rotation, computed before it changes anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.identity.trust_anchor import (
    ISSUER_SECRET,
    cluster_uid,
    provided_certificate,
    provided_key,
)
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import CertificateInfo, fingerprints, read_certificates
from prefect_linkerd.mesh.records.rotation import RotationRecord, anchor_of, read_record
from prefect_linkerd.mesh.restarts import ManualRestart, Needs, RestartPlan, plan_restarts
from prefect_linkerd.mesh.rotation.issuer_renewal import require_writable
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.options import Action, NewAnchor, RotationOptions
from prefect_linkerd.mesh.rotation.pace import Pace, pace_of, renewal_seconds
from prefect_linkerd.mesh.rotation.permissions import anchor_permissions, lacking, require
from prefect_linkerd.mesh.rotation.phases import (
    NO_WAY_BACK,
    PHASES,
    Phase,
    PhaseName,
    is_expired,
    needs_restart,
    next_phase,
    phases_of,
    recovery_phase,
    spread_takes,
)
from prefect_linkerd.mesh.rotation.preconditions import (
    check_new_anchor,
    nothing_to_abort,
    nothing_to_drop,
    refuse,
    require_certificate_layout,
    require_quick,
    require_way_back,
    troubles,
)
from prefect_linkerd.mesh.rotation.snapshot import RotationSnapshot, read_rotation
from prefect_linkerd.mesh.rotation.trust_bundle import (
    require_installed,
    require_writable_bundle,
    require_writable_key,
)


@dataclass(frozen=True)
class RotationPlan:
    """What a rotation would do. `restarts` is by phase; none has happened yet.

    `goal` is None if the new anchor has yet to be made. `warnings` tell the operator what to
    expect, such as an abort that rolls forward. `costs` says what each pace costs; `seconds` is the
    time of this one, its waits included.
    """

    goal: CertificateInfo | None
    trusted: tuple[CertificateInfo, ...]
    issuer: CertificateInfo | None
    phase: PhaseName
    restarts: dict[PhaseName, RestartPlan]
    seconds: float
    troubles: tuple[str, ...]
    expired: bool
    record: RotationRecord | None
    phases: tuple[Phase, ...] = PHASES
    warnings: tuple[str, ...] = ()
    pace: Pace = "quick"
    costs: tuple[str, ...] = ()

    @property
    def manual(self) -> tuple[ManualRestart, ...]:
        found = {item: None for plan in self.restarts.values() for item in plan.manual}
        return tuple(found)


def inspect_rotation(
    mesh: Mesh,
    ring: KeyRing,
    new: NewAnchor,
    options: RotationOptions,
    action: Action,
    now: datetime,
) -> RotationPlan:
    """Checks the input against the cluster and plans the rotation; changes nothing.

    Raises:
        ChartError: the control plane's chart cannot be found.
        InvalidInput: the new anchor is unfit, or the mesh cannot take this action now.
        NotReady: the mesh is not healthy enough to start.
        OwnershipConflict: an object that a rotation would write belongs to somebody else.
        PreflightFailed: this identity lacks permissions that a rotation needs; a dry run only
            reports that.
    """
    chart = mesh.control_plane_chart
    record = read_record(mesh.cluster, mesh.config.namespaces.linkerd)
    is_open = record is not None and record.is_open
    provided = (
        provided_certificate(new.as_config(mesh.config.trust_anchor)) if new.is_provided else None
    )
    if action == "drop":
        goal = _goal_to_drop(record, provided)
    else:
        goal = _decide_goal(record if is_open else None, provided, action)
    snapshot = read_rotation(mesh, goal or "")
    if action == "drop":
        _require_left(snapshot, is_open=is_open)
    expired = is_expired(snapshot, now)
    if snapshot.anchor is not None:
        takes = spread_takes(snapshot, options)
        require_quick(options, snapshot)
        require_certificate_layout(snapshot, new, action, takes, expired=expired)
    else:
        known = snapshot.bundle.roots + "\n" + (record.anchors if record is not None else "")
        ring.refuse_another_clusters(fingerprints(known, "trust bundle"), cluster_uid(mesh.cluster))
        require_writable_bundle(mesh, snapshot.bundle)
        require_writable_key(mesh)
    if snapshot.bundle.follows:
        require_installed(snapshot.bundle, chart, mesh.config)
    if mesh.config.issuer == "self-signed":
        secret = mesh.cluster.get("v1", "Secret", ISSUER_SECRET, mesh.config.namespaces.linkerd)
        require_writable(secret, mesh.config)
    info = None
    if provided is not None and not (is_open and goal):
        info = check_new_anchor(provided, mesh.config, snapshot.bundle.roots, now)
        provided_key(new.as_config(mesh.config.trust_anchor), provided)
    elif is_open and record is not None and goal:
        info = anchor_of(record, goal)
        if action == "abort" and snapshot.anchor is None:
            require_way_back(mesh, ring, goal)
    if snapshot.anchor is not None:
        info = _certificate_goal(snapshot, is_open=is_open)
    found = tuple(troubles(snapshot, mesh.config, now))
    unsigned = not snapshot.is_chained
    refuse(mesh.config, options, action, found, expired=expired, unsigned=unsigned, is_open=is_open)
    pace = _pace(mesh, snapshot, options, action, record if is_open else None)
    snapshot = replace(snapshot, is_gentle=pace == "gentle")
    phase: PhaseName = "drop" if action == "drop" else "prepare"
    if is_open:
        phase = (
            recovery_phase(snapshot)
            if action == "recover"
            else next_phase(snapshot, spread_takes(snapshot, options))
        )
    plans = _plans(snapshot, options, action, phase)
    restarted = [t.workload for p in plans.values() for b in p.batches for t in b.targets]
    lacks = lacking(
        mesh.cluster,
        anchor_permissions(
            mesh.config,
            restarted,
            snapshot.bundle,
            has_record=record is not None,
            anchor=snapshot.anchor,
            is_gentle=pace == "gentle",
        ),
    )
    if action != "dry_run":
        require(lacks)
    return RotationPlan(
        goal=info,
        trusted=tuple(read_certificates(snapshot.bundle.roots, "trust bundle")),
        issuer=snapshot.issuer,
        phase=phase,
        restarts=plans,
        seconds=_seconds(plans, options, pace),
        troubles=(*found, *([lacks] if lacks else [])),
        expired=expired,
        record=record,
        phases=phases_of(snapshot),
        warnings=tuple(_warnings(snapshot, action, is_open=is_open)),
        pace=pace,
        costs=tuple(_costs(snapshot, options)) if action != "drop" and phase == "prepare" else (),
    )


def _pace(
    mesh: Mesh,
    snapshot: RotationSnapshot,
    options: RotationOptions,
    action: Action,
    record: RotationRecord | None,
) -> Pace:
    """The pace of the phases still to come.

    Args:
        record: the record of a rotation, if it is open.
    """
    if action in ("recover", "drop"):
        return "quick"
    if record is not None and options.pace == "auto":
        return "gentle" if record.is_gentle else "quick"
    return pace_of(mesh.cluster, snapshot, options)


def _goal_to_drop(record: RotationRecord | None, provided: str | None) -> str:
    """The anchor of a gentle rotation, the only one that proxies trust once `drop` is done."""
    if provided is not None:
        raise InvalidInput(
            "new trust anchor",
            expected="none, as the action drop uses no new anchor",
            found="a provided one",
            remedy="Provide none, or run rotate_anchor without the action drop.",
        )
    if record is None or (record.is_open and not record.dropped):
        raise nothing_to_drop("none" if record is None else f"one in phase {record.phase}")
    return record.goal


def _require_left(snapshot: RotationSnapshot, *, is_open: bool) -> None:
    if not snapshot.bundle.is_only(snapshot.goal):
        raise nothing_to_drop("a trust bundle that has changed since")
    if not is_open and all(map(snapshot.trusts_goal_alone, snapshot.data_plane.pods)):
        raise nothing_to_drop("that every proxy trusts only the new anchor")


def _seconds(plans: dict[PhaseName, RestartPlan], options: RotationOptions, pace: Pace) -> float:
    restarts = sum(plan.seconds(options.restarts) for plan in plans.values())
    return restarts + (renewal_seconds(options) if pace == "gentle" else 0)


def _costs(snapshot: RotationSnapshot, options: RotationOptions) -> Iterator[str]:
    """What each pace costs, for a rotation that has yet to start."""
    if snapshot.anchor is not None:
        return
    once = plan_restarts(snapshot.data_plane, lambda _: True, options.restarts)
    minutes = once.seconds(options.restarts) / 60
    waits = renewal_seconds(options) / 60
    rounds = 2 if options.drop_by_hours == 0 else 1
    yield (
        f"gentle: {rounds * once.restarts} restarts, about {rounds * minutes + waits:.0f} minutes, "
        f"{waits:.0f} of them waiting for proxies to renew; one request to each proxy"
    )
    rounds = 2 if options.renewal == "wait" else 3
    more = ", plus the time until proxies renew" if options.renewal == "wait" else ""
    yield f"quick: {rounds * once.restarts} restarts, about {rounds * minutes:.0f} minutes{more}"


def _certificate_goal(snapshot: RotationSnapshot, *, is_open: bool) -> CertificateInfo | None:
    """The new anchor if cert-manager has made it already, for this rotation or by itself."""
    if snapshot.anchor is None:
        return None
    is_made = bool(snapshot.goal) if is_open else not snapshot.is_settled_on_current
    return snapshot.anchor.current if is_made else None


def _warnings(snapshot: RotationSnapshot, action: Action, *, is_open: bool) -> Iterator[str]:
    anchor = snapshot.anchor
    if anchor is None:
        return
    is_asked = snapshot.goal not in ("", snapshot.origin) or anchor.anchor.is_issuing
    if action == "abort" and is_asked:
        yield f"{NO_WAY_BACK} The abort rolls forward, to the end of the rotation."
    elif not is_open and not snapshot.is_settled_on_current:
        yield (
            f"{anchor.anchor.subject} was renewed outside a rotation: this rotation takes over and "
            "makes no further anchor."
        )


def _decide_goal(record: RotationRecord | None, provided: str | None, action: Action) -> str | None:
    """The fingerprint of the anchor to rotate to; None if it has yet to be made."""
    if action == "abort":
        if record is None:
            raise nothing_to_abort()
        return record.origin
    given = next(iter(fingerprints(provided, "new trust anchor"))) if provided else None
    if record is None:
        return given
    if record.is_going_back:
        raise InvalidInput(
            "rotation",
            expected="no rotation in progress, or one that was not aborted",
            found="one that was aborted and is rolling back",
            remedy="Run abort until it finishes, then rotate again.",
        )
    if given is not None and given != record.goal:
        raise InvalidInput(
            "new trust anchor",
            expected=f"the anchor of the open rotation, {record.goal}",
            found=f"another one, {given}",
            remedy="Provide none to resume it, or abort it first.",
        )
    return record.goal


def _plans(
    snapshot: RotationSnapshot, options: RotationOptions, action: Action, phase: PhaseName
) -> dict[PhaseName, RestartPlan]:
    """The restarts of every phase still to come."""
    tolerated = unhealthy_workloads(snapshot)
    if snapshot.anchor is not None and snapshot.goal == snapshot.origin and action == "abort":
        return {}

    def plan(needs: Needs) -> RestartPlan:
        return plan_restarts(snapshot.data_plane, needs, options.restarts, tolerated=tolerated)

    def everything(_: object) -> bool:
        return True

    if action == "recover":
        return {"spread": plan(everything)}
    names: tuple[PhaseName, ...] = ("spread", "switch", "drop")
    order = [each.name for each in phases_of(snapshot)]
    plans: dict[PhaseName, RestartPlan] = {}
    for name in names:
        if order.index(name) < order.index(phase):
            continue
        if name == "switch" and (options.renewal == "wait" or snapshot.is_gentle):
            continue
        if name == "drop" and snapshot.is_gentle and options.drop_by_hours != 0:
            continue
        plans[name] = plan(needs_restart(snapshot, name) if name == phase else everything)
    return plans


def unhealthy_workloads(snapshot: RotationSnapshot) -> frozenset[Workload]:
    return frozenset(
        target.workload for target in snapshot.data_plane.targets.values() if not target.is_complete
    )
