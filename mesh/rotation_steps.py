"""What each phase of a rotation does, and its proof. May be killed anywhere, and run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from mesh.charts import Chart
from mesh.cluster import Cluster
from mesh.config import MeshConfig
from mesh.errors import InvalidInput, MeshError, NotReady
from mesh.helm import Helm
from mesh.injection import restart
from mesh.issuer import check_issuer_secret
from mesh.issuer_renewal import IDENTITY, await_reissued, ensure_loaded, reissue, write_issuer
from mesh.key_ring import KeyRing
from mesh.leaves import read_issued
from mesh.pki import (
    CertificateInfo,
    KeyPair,
    check_issuer,
    create_trust_anchor,
    fingerprints,
    join_bundle,
    read_certificates,
    signed_by,
)
from mesh.restarts import (
    Batch,
    ByHand,
    DataPlane,
    Needs,
    RestartPlan,
    plan_restarts,
    read_data_plane,
    restart_data_plane,
)
from mesh.rollout import OnProgress, Workload, await_rollouts, read_workloads, rollout_status
from mesh.rotation import (
    PHASES,
    PhaseName,
    RotationSnapshot,
    check_new_anchor,
    is_expired,
    is_recovered,
    needs_restart,
    next_phase,
    read_rotation,
    recovery_phase,
    troubles,
    unproven,
)
from mesh.rotation_options import NewAnchor, RotationOptions
from mesh.rotation_record import RotationClaim, RotationRecord, read_record
from mesh.trust_anchor import (
    ISSUER_SECRET,
    TRUST_ROOTS,
    TlsSecret,
    brought_certificate,
    brought_key,
    read_tls_secret,
    tls_secret,
)
from mesh.trust_bundle import BUNDLE, only, require_installed, with_anchor, write_trust_bundle

PREVIOUS_ISSUER = f"{ISSUER_SECRET}-previous"
REISSUES = 3
"""How often cert-manager is asked: it may have signed by what it still had in memory."""

Action = Literal["rotate", "dry_run", "abort", "recover"]


@dataclass(frozen=True)
class RotationPlan:
    """What a rotation would do. `restarts` is by phase; nothing of it was done.

    `goal` is None where a new anchor has yet to be made.
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

    @property
    def by_hand(self) -> tuple[ByHand, ...]:
        found = {item: None for plan in self.restarts.values() for item in plan.by_hand}
        return tuple(found)


def look(
    cluster: Cluster,
    config: MeshConfig,
    chart: Chart,
    ring: KeyRing,
    new: NewAnchor,
    options: RotationOptions,
    action: Action,
    now: datetime,
) -> RotationPlan:
    """Checks everything that was given against what is there, and plans; changes nothing.

    Raises:
        InvalidInput: the new anchor is unfit, or the mesh cannot take this action now.
        NotReady: the mesh is not healthy enough to begin.
    """
    record = read_record(cluster, config.namespaces.linkerd)
    is_open = record is not None and record.is_open
    brought = brought_certificate(new.as_config(config.trust_anchor)) if new.is_brought else None
    goal = _decide_goal(record if is_open else None, brought, action)
    snapshot = read_rotation(cluster, config, goal or "")
    require_installed(snapshot.bundle, chart, config)
    info = None
    if brought is not None and not (is_open and goal):
        info = check_new_anchor(brought, config, snapshot.bundle.roots, now)
        brought_key(new.as_config(config.trust_anchor), brought)
    elif is_open and record is not None and goal is not None:
        info = _anchor(record, goal)
        if action == "abort":
            _require_way_back(cluster, config, ring, goal)
    expired = is_expired(snapshot, now)
    found = tuple(troubles(snapshot, config, now))
    _refuse(config, options, action, found, expired=expired, is_open=is_open)
    phase: PhaseName = "prepare"
    if is_open:
        phase = (recovery_phase if action == "recover" else next_phase)(snapshot)
    plans = _plans(snapshot, options, action, phase)
    return RotationPlan(
        goal=info,
        trusted=tuple(read_certificates(snapshot.bundle.roots, "trust bundle")),
        issuer=snapshot.issuer,
        phase=phase,
        restarts=plans,
        seconds=sum(plan.seconds(options.restarts) for plan in plans.values()),
        troubles=found,
        expired=expired,
        record=record,
    )


def _decide_goal(record: RotationRecord | None, brought: str | None, action: Action) -> str | None:
    """The fingerprint of the anchor to go to; None where it has yet to be made."""
    if action == "abort":
        if record is None:
            raise InvalidInput(
                "abort",
                expected="a rotation that has begun and not ended",
                found="none",
                remedy="There is nothing to go back from.",
            )
        return record.origin
    given = next(iter(fingerprints(brought, "new trust anchor"))) if brought else None
    if record is None:
        return given
    if record.is_going_back:
        raise InvalidInput(
            "rotation",
            expected="none, or one that goes forward",
            found="one that was aborted and is on its way back",
            remedy="Run abort until it has ended, then rotate anew.",
        )
    if given is not None and given != record.goal:
        raise InvalidInput(
            "new trust anchor",
            expected=f"the one of the rotation that has begun, {record.goal}",
            found=f"another one, {given}",
            remedy="Bring none to go on with it, or abort it first.",
        )
    return record.goal


def _anchor(record: RotationRecord, fingerprint: str) -> CertificateInfo:
    return next(
        info
        for info in read_certificates(record.anchors, "rotation")
        if info.fingerprint == fingerprint
    )


def _require_way_back(cluster: Cluster, config: MeshConfig, ring: KeyRing, goal: str) -> None:
    """Raises unless an issuer of the old anchor is there, or can be signed."""
    if ring.find(goal) is not None:
        return
    if config.issuer == "self-signed":
        for name in (ISSUER_SECRET, PREVIOUS_ISSUER):
            secret = read_tls_secret(cluster, name, config.namespaces.linkerd)
            record = read_record(cluster, config.namespaces.linkerd)
            if secret and record and _chains_to(secret.certificate, record, goal):
                return
    raise InvalidInput(
        "abort",
        expected=f"the old anchor's private key in {ring.current.where} or beside it, or an issuer "
        "that it signed",
        found="neither",
        remedy="There is no way back: run rotate_anchor again, which goes on to the new anchor.",
    )


def _chains_to(chain: str, record: RotationRecord, goal: str) -> bool:
    signer = signed_by(chain, record.anchors, ISSUER_SECRET)
    return signer is not None and signer.fingerprint == goal


def _refuse(
    config: MeshConfig,
    options: RotationOptions,
    action: Action,
    found: Sequence[str],
    *,
    expired: bool,
    is_open: bool,
) -> None:
    subject = f"mesh {config.name}"
    if action == "recover":
        if not expired and not is_open:
            raise InvalidInput(
                subject,
                expected="certificates that have ended, to recover from",
                found="that they are valid",
                remedy="Use rotate_anchor or rotate_issuer without recover: they need no downtime.",
            )
        if not options.accept_downtime:
            raise InvalidInput(
                subject,
                expected="accept_downtime, as meshed workloads cannot reach each other until every "
                "one of them is restarted",
                found="that it is off",
                remedy="Turn accept_downtime on.",
            )
        return
    if expired and action == "rotate":
        raise InvalidInput(
            subject,
            expected="an identity that is valid, to rotate without downtime",
            found="that the issuer or its trust anchor has ended",
            remedy="Run the same with recover, which needs a downtime.",
        )
    # What has begun is finished, be the mesh as it may: each batch is gated by itself.
    if found and action == "rotate" and not is_open and not options.allow_unhealthy:
        raise NotReady(
            subject,
            expected="it to be healthy before its anchor is rotated",
            found=" | ".join(found[:20]),
            remedy="Mend what is named, or turn allow_unhealthy on.",
        )


def _plans(
    snapshot: RotationSnapshot, options: RotationOptions, action: Action, phase: PhaseName
) -> dict[PhaseName, RestartPlan]:
    """The restarts of every phase that is still to come."""
    tolerated = unwell(snapshot)

    def plan(needs: Needs) -> RestartPlan:
        return plan_restarts(snapshot.data_plane, needs, options.restarts, tolerated=tolerated)

    def everything(_: object) -> bool:
        return True

    if action == "recover":
        return {"spread": plan(everything)}
    names: tuple[PhaseName, ...] = ("spread", "switch", "drop")
    order = [each.name for each in PHASES]
    plans: dict[PhaseName, RestartPlan] = {}
    for name in names:
        if order.index(name) < order.index(phase):
            continue
        if name == "switch" and options.renewal == "wait":
            continue
        plans[name] = plan(needs_restart(snapshot, name) if name == phase else everything)
    return plans


def unwell(snapshot: RotationSnapshot) -> frozenset[Workload]:
    return frozenset(
        target.workload for target in snapshot.data_plane.targets.values() if not target.is_complete
    )


class Rotation:
    """One run of a rotation, forward or back.

    Args:
        chart: the control plane's, in the version that is installed.
        claim: the right to rotate, held.
    """

    def __init__(
        self,
        cluster: Cluster,
        config: MeshConfig,
        helm: Helm,
        chart: Chart,
        ring: KeyRing,
        claim: RotationClaim,
        options: RotationOptions,
    ) -> None:
        self._cluster = cluster
        self._config = config
        self._helm = helm
        self._chart = chart
        self._ring = ring
        self._claim = claim
        self._options = options

    @property
    def record(self) -> RotationRecord:
        record = self._claim.record
        if record is None:
            raise RuntimeError("the rotation has not begun")
        return record

    def read(self, data_plane: DataPlane | None = None) -> RotationSnapshot:
        return read_rotation(self._cluster, self._config, self.record.goal, data_plane)

    def next_phase(self, *, recover: bool = False) -> PhaseName:
        """The first phase whose proof does not hold, by what is on the cluster."""
        snapshot = self.read()
        if recover:
            return recovery_phase(snapshot)
        phase = next_phase(snapshot)
        if phase == "switch" and snapshot.loaded_since is not None:
            return next_phase(self._with_issued(snapshot))
        return phase

    # prepare

    def begin(self, new: NewAnchor, action: Action) -> RotationRecord:
        """Keeps the new anchor's key, then writes down what is to be done; or takes it up."""
        record = self._claim.record
        now = self._cluster.clock()
        if record is not None and record.is_open:
            if action == "abort" and not record.is_going_back:
                record = self._claim.save(replace(record, goal=record.origin, signing_since=""))
                self._claim.tell(record.phase, "Aborted: the old anchor is the goal again.")
            return self.record
        snapshot = read_rotation(self._cluster, self._config, "")
        roots = snapshot.bundle.roots
        pair = self._new_pair(new, roots, now)
        info = check_new_anchor(pair.certificate, self._config, roots, now)
        if snapshot.issuer_anchor is None and action != "recover":
            raise InvalidInput(
                f"Secret {ISSUER_SECRET}",
                expected="an issuer that an anchor of the trust bundle signed",
                found="none",
                remedy="Mend the issuer first: see verify_mesh.",
            )
        self._claim.save(
            RotationRecord(
                goal=info.fingerprint,
                origin=snapshot.issuer_anchor or "",
                anchors=join_bundle([roots, info.pem]),
                phase="prepare",
                begun=now.isoformat(timespec="seconds"),
            )
        )
        self._claim.tell("prepare", f"To {info.subject}, sha256 {info.fingerprint}.")
        return self.record

    def _new_pair(self, new: NewAnchor, roots: str, now: datetime) -> KeyPair:
        """The new anchor, kept beside the old one's key before anything uses it."""
        config = self._config
        if new.is_brought:
            brought = new.as_config(config.trust_anchor)
            certificate = brought_certificate(brought) or ""
            pair = KeyPair(certificate, brought_key(brought, certificate))
            self._ring.next.replace(pair)
            return pair
        # One that a run made which died before it wrote down that it had begun.
        kept = self._ring.next.load()
        if kept is not None:
            try:
                check_new_anchor(kept.certificate, config, roots, now)
            except MeshError:
                pass
            else:
                return kept
        pair = create_trust_anchor(config.trust_domain, config.lifetimes.anchor, now)
        self._ring.next.replace(pair)
        return pair

    # bundle

    def bundle(self, on_progress: OnProgress) -> None:
        """The goal beside what is trusted."""
        record = self.record
        self._claim.check()
        roots = self.read().bundle.roots
        wanted = with_anchor(roots, _anchor(record, record.goal).pem)
        self._write(wanted, on_progress)
        self._claim.tell("bundle", f"{len(read_certificates(wanted, 'bundle'))} anchors trusted.")

    def bundle_alone(self, on_progress: OnProgress) -> None:
        """The goal and nothing else, as a recovery has it."""
        record = self.record
        self._claim.check()
        wanted = join_bundle([_anchor(record, record.goal).pem])
        # Helm waits for proxies that need a certificate, so identity has to sign before.
        namespace = self._config.namespaces.linkerd
        self._cluster.merge("v1", "ConfigMap", TRUST_ROOTS, namespace, {"data": {BUNDLE: wanted}})
        identity = ("Deployment", namespace, IDENTITY)
        restart(self._cluster, identity, self._cluster.clock())
        await_rollouts(self._cluster, [identity], self._config.timeout_seconds, on_progress)
        self._write(wanted, on_progress)
        self._claim.tell("bundle", "The new anchor alone is trusted.")

    def _write(self, wanted: str, on_progress: OnProgress) -> None:
        write_trust_bundle(
            self._cluster, self._helm, self._chart, self._config, wanted, on_progress
        )

    # spread

    def spread(self, on_progress: OnProgress) -> None:
        """Every proxy trusts the goal."""
        self._restart("spread", on_progress)

    # switch

    def switch(self, on_progress: OnProgress) -> None:
        """The goal signs, and every proxy has a certificate of it."""
        snapshot = self.read()
        if next_phase(snapshot) in ("bundle", "spread"):
            raise NotReady(
                f"mesh {self._config.name}",
                expected="every running proxy to trust the new anchor before it signs",
                found=", ".join(p.subject for p in unproven(snapshot, "spread")) or "the bundle",
                remedy="Run again.",
            )
        if snapshot.issuer_anchor != self.record.goal:
            self.issue()
        self.await_load(on_progress)
        if self._options.renewal == "restart":
            self._restart("switch", on_progress)
        else:
            self._await_renewal(on_progress)

    def issue(self) -> None:
        """A new issuer, signed by the goal; the Secret is replaced whole."""
        self._claim.check()
        goal = self.record.goal
        if self._config.issuer == "cert-manager":
            self._ring.promote(goal)
            self._reissue(lambda secret: _chains_to(secret.certificate, self.record, goal))
        else:
            self._sign(goal)
        self._claim.tell("switch", f"The issuer is signed by {goal}.")

    def _sign(self, goal: str) -> None:
        namespace = self._config.namespaces.linkerd
        there = read_tls_secret(self._cluster, ISSUER_SECRET, namespace)
        pair = self._ring.find(goal)
        if pair is None:
            self._restore(goal)
            return
        if there is not None and there.private_key is not None:
            # The way back where the old anchor's key is nowhere.
            kept = tls_secret(
                PREVIOUS_ISSUER, namespace, there.certificate, there.private_key, there.authority
            )
            self._cluster.apply(kept)
        self._ring.promote(goal)
        write_issuer(self._cluster, self._config, pair, self.record.anchors)

    def _restore(self, goal: str) -> None:
        namespace = self._config.namespaces.linkerd
        kept = read_tls_secret(self._cluster, PREVIOUS_ISSUER, namespace)
        is_goals = kept is not None and _chains_to(kept.certificate, self.record, goal)
        if kept is None or kept.private_key is None or not is_goals:
            self._ring.require(goal)
            return
        now = self._cluster.clock()
        check_issuer(
            kept.certificate,
            self.record.anchors,
            self._config.trust_domain,
            now,
            f"Secret/{namespace}/{PREVIOUS_ISSUER}",
        )
        self._cluster.apply(
            tls_secret(ISSUER_SECRET, namespace, kept.certificate, kept.private_key, kept.authority)
        )

    def _reissue(self, is_done: Callable[[TlsSecret], bool]) -> None:
        for _ in range(REISSUES):
            reissue(self._cluster, self._config)
            secret = await_reissued(self._cluster, self._config, self._config.timeout_seconds)
            if is_done(secret):
                return
        raise NotReady(
            f"Certificate/{self._config.namespaces.linkerd}/{ISSUER_SECRET}",
            expected="an issuer of the trust anchor in cert-manager's Secret",
            found=f"one of another, {REISSUES} times",
            remedy="Look at cert-manager's log, and which Secret its issuer reads.",
        )

    def await_load(self, on_progress: OnProgress) -> None:
        """Every identity pod signs by the goal; those that do not load it are restarted."""
        since = self.record.since()
        if since is None:
            self._claim.check()
            since = ensure_loaded(
                self._cluster, self._config, self._options.load_seconds, on_progress
            )
            self._claim.save(replace(self.record, signing_since=since.isoformat()))
            self._claim.tell("switch", f"Identity signs by it since {since:%H:%M:%S} UTC.")
        self._wait_until(since)

    def _await_renewal(self, on_progress: OnProgress) -> None:
        """Waits until every proxy has renewed its certificate by itself."""
        lifetime = timedelta(hours=self._config.lifetimes.leaf_hours)
        deadline = time.monotonic() + lifetime.total_seconds()
        while True:
            self._claim.check()
            snapshot = self._with_issued(self.read())
            total = len(snapshot.data_plane.pods)
            left = list(unproven(snapshot, "switch"))
            on_progress(total - len(left), total, "waiting for proxies to renew")
            if not left:
                return
            if time.monotonic() > deadline:
                raise self._unproven("switch", snapshot)
            time.sleep(min(30.0, lifetime.total_seconds() / 100))

    def _with_issued(self, snapshot: RotationSnapshot) -> RotationSnapshot:
        lifetime = timedelta(hours=self._config.lifetimes.leaf_hours)
        left = list(unproven(snapshot, "switch"))
        return replace(snapshot, issued=read_issued(self._cluster, left, lifetime))

    # drop

    def drop(self, on_progress: OnProgress) -> None:
        """The goal alone is trusted, once nobody has a certificate of another."""
        snapshot = self._with_issued(self.read())
        if next_phase(snapshot) in ("bundle", "spread", "switch"):
            left = ", ".join(p.subject for p in unproven(snapshot, "switch"))
            raise NotReady(
                f"mesh {self._config.name}",
                expected="no proxy to need the old anchor before it is dropped",
                found=left or "an issuer of the old one",
                remedy="Run again.",
            )
        self._claim.check()
        self._write(only(self.record.anchors, self.record.goal), on_progress)
        self._claim.tell("drop", "The trust bundle holds one anchor.")
        self._restart("drop", on_progress)

    # recover

    def recover(self, on_progress: OnProgress) -> None:
        """Restarts everything once: each proxy comes up with the new anchor and a certificate."""
        self.await_load(on_progress)
        snapshot = self.read()
        self._wait_until(snapshot.bundle.settled)

        def judge(plane: DataPlane) -> Needs:
            recovered = is_recovered(self.read(plane))
            return lambda pod: not recovered(pod)

        # Without a certificate hardly anything is ready, and what is not is no reason to wait.
        self._restart_all("spread", judge, on_progress, unwell(snapshot))

    # done

    def finish(self) -> RotationSnapshot:
        """Verifies, and forgets what only the way back needed.

        Raises:
            NotReady: something is not as it should be after all.
        """
        self._claim.check()
        namespace = self._config.namespaces.linkerd
        snapshot = self.read()
        secret = self._cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
        if secret is None:
            raise NotReady(
                f"Secret/{namespace}/{ISSUER_SECRET}",
                expected="the issuer",
                found="nothing",
                remedy="Run again.",
            )
        check_issuer_secret(secret, self._config, snapshot.bundle.roots, self._cluster.clock())
        late = [
            obj["metadata"]["name"]
            for obj in read_workloads(self._cluster, namespace)
            if not rollout_status(obj).is_complete
        ]
        if late:
            raise NotReady(
                f"Deployment/{namespace}/{late[0]}",
                expected="it to be rolled out",
                found="that it is not",
                remedy="Mend it, then run again.",
            )
        self._ring.settle(self.record.goal)
        self._cluster.delete("v1", "Secret", PREVIOUS_ISSUER, namespace)
        self._claim.tell("done", "The mesh has one anchor, and everything is of it.")
        return snapshot

    # Parts

    def _restart(self, phase: PhaseName, on_progress: OnProgress) -> None:
        snapshot = self.read()
        if phase != "switch":
            self._wait_until(snapshot.bundle.settled)
        tolerated = unwell(snapshot) if self._options.allow_unhealthy else frozenset[Workload]()

        def judge(plane: DataPlane) -> Needs:
            return needs_restart(self.read(plane), phase)

        self._claim.tell(phase, "Restarting what needs it.")
        self._restart_all(phase, judge, on_progress, tolerated)
        self._prove(phase)

    def _restart_all(
        self,
        phase: PhaseName,
        judge: Callable[[DataPlane], Needs],
        on_progress: OnProgress,
        tolerated: frozenset[Workload],
    ) -> None:
        def before(batch: Batch) -> None:
            record = self.record
            done = record.restarted.get(phase, ())
            names = tuple("/".join(workload) for workload in batch.workloads)
            restarted = {**record.restarted, phase: tuple(dict.fromkeys((*done, *names)))}
            self._claim.save(replace(record, restarted=restarted))

        restart_data_plane(
            self._cluster,
            lambda: read_data_plane(self._cluster, self._config.namespaces.linkerd),
            judge,
            self._options.restarts,
            timeout=self._config.timeout_seconds,
            on_progress=on_progress,
            tolerated=tolerated,
            before_batch=before,
        )

    def _prove(self, phase: PhaseName) -> None:
        """Waits for the last old pods to go, then says whether the phase's proof holds."""
        deadline = time.monotonic() + self._config.timeout_seconds
        while True:
            snapshot = self.read()
            left = list(unproven(snapshot, phase))
            if left and phase == "switch":
                # What nobody restarts may have renewed by itself.
                snapshot = self._with_issued(snapshot)
                left = list(unproven(snapshot, phase))
            if not left:
                text = f"Proven for {len(snapshot.data_plane.pods)} proxies."
                self._claim.tell(phase, text)
                return
            lasting = [pod for pod in left if not pod.is_deleting]
            if lasting or time.monotonic() > deadline:
                raise self._unproven(phase, snapshot)
            time.sleep(1.0)

    def _unproven(self, phase: PhaseName, snapshot: RotationSnapshot) -> NotReady:
        plan = plan_restarts(
            snapshot.data_plane, needs_restart(snapshot, phase), self._options.restarts
        )
        left = [str(item) for item in plan.by_hand]
        left += [pod.subject for pod in unproven(snapshot, phase)]
        proof = next(each.proof for each in PHASES if each.name == phase)
        return NotReady(
            f"mesh {self._config.name}, phase {phase}",
            expected=proof,
            found=" | ".join(left[:20]),
            remedy="Do by hand what is named, then run again: it goes on from here.",
        )

    def _wait_until(self, moment: datetime | None) -> None:
        if moment is not None:
            self._cluster.wait_until(moment)
