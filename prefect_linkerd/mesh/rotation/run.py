"""What each phase of a rotation does, and its proof. Can be killed at any point and run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import durationpy

from prefect_linkerd.mesh.errors import InvalidInput, MeshError, NotReady
from prefect_linkerd.mesh.helm.values import text_at
from prefect_linkerd.mesh.identity.certificate_anchor import (
    CertificateAnchor,
    anchors_in,
    copy_current,
    keep_anchors,
)
from prefect_linkerd.mesh.identity.issuer import check_issuer_secret
from prefect_linkerd.mesh.identity.trust_anchor import (
    BUNDLE,
    ISSUER_SECRET,
    TRUST_ROOTS,
    TlsSecret,
    cluster_uid,
    provided_certificate,
    provided_key,
    read_tls_secret,
    tls_secret,
)
from prefect_linkerd.mesh.install.injection import restart
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.rollout import (
    OnProgress,
    await_rollouts,
    read_workloads,
    rollout_status,
)
from prefect_linkerd.mesh.kubernetes.waiting import polls
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    KeyPair,
    check_issuer,
    create_trust_anchor,
    join_bundle,
    read_certificates,
)
from prefect_linkerd.mesh.probe.restarting import restart_with_probe
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.records.rotation import (
    RotationClaim,
    RotationRecord,
    anchor_of,
    chains_to,
)
from prefect_linkerd.mesh.restarts import (
    Batch,
    DataPlane,
    Needs,
    plan_restarts,
    read_data_plane,
    with_current_pods,
)
from prefect_linkerd.mesh.rotation.issuer_renewal import (
    IDENTITY,
    PREVIOUS_ISSUER,
    await_issued,
    await_reissued,
    ensure_loaded,
    issuer_certificate,
    put_issuer,
    reissue,
    renew,
    write_issuer,
)
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.leaves import read_issued
from prefect_linkerd.mesh.rotation.options import Action, NewAnchor, RotationOptions
from prefect_linkerd.mesh.rotation.pace import (
    LIFETIME,
    LeafTimes,
    leaf_times,
    pace_of,
    with_lifetime,
    with_lifetime_restored,
)
from prefect_linkerd.mesh.rotation.phases import (
    NO_WAY_BACK,
    PhaseName,
    is_expired,
    is_issuer_due,
    is_prepared,
    is_recovered,
    needs_restart,
    next_phase,
    phases_of,
    recovery_phase,
    spread_takes,
    unproven,
)
from prefect_linkerd.mesh.rotation.plan import unhealthy_workloads
from prefect_linkerd.mesh.rotation.preconditions import (
    check_new_anchor,
    nothing_to_abort,
    nothing_to_drop,
    require_certificate_layout,
)
from prefect_linkerd.mesh.rotation.renewals import all_renewed_at, may_have_renewed, queried_first
from prefect_linkerd.mesh.rotation.snapshot import (
    RotationSnapshot,
    anchors_to_keep,
    identity_pods,
    read_rotation,
)
from prefect_linkerd.mesh.rotation.trust_bundle import (
    Change,
    TrustBundle,
    await_roots,
    declare,
    only,
    read_trust_bundle,
    with_anchor,
    write_trust_bundle,
)
from prefect_linkerd.mesh.snapshot.mesh import Pod
from prefect_linkerd.mesh.traffic.watch import BatchTraffic, TrafficWatch

STOPPED = (
    "Look at its log and its proxy's. Then run again: the rotation resumes with the next batch. Or "
    "allow a further drop with the option restarts.max_success_drop, or roll back with the action "
    "abort (unless cert-manager makes the anchor)."
)
"""What to do if fewer requests succeed after a restart."""

FRESH = 5.0
"""For how many seconds the next step may reuse what the previous step has read."""

CHECKED = 10.0
"""Seconds between checks of the probe while the rotation only waits for proxies to renew."""

REISSUES = 3
"""How many times to ask cert-manager: it may have signed with an anchor that it had cached."""


class Rotation:
    """One run of a rotation, forward or back.

    Args:
        claim: the held right to rotate.

    `probe` is replaced while a probe runs; a run may have none.
    """

    def __init__(
        self,
        mesh: Mesh,
        ring: KeyRing,
        claim: RotationClaim,
        options: RotationOptions,
    ) -> None:
        self._mesh = mesh
        self._ring = ring
        self._claim = claim
        self._options = options
        self.probe = Probe()
        self._issued: dict[str, datetime] = {}
        self._seen: tuple[float, DataPlane | None] = (0.0, None)
        self._whole: DataPlane | None = None
        self._handed: RotationSnapshot | None = None
        self._watch = TrafficWatch(
            mesh.cluster,
            max_drop=options.restarts.max_success_drop,
            seconds=options.restarts.traffic_seconds,
            remedy=STOPPED,
            census=self._census,
        )

    def _census(
        self, pods: Sequence[Pod], names: Sequence[str], seconds: float
    ) -> Mapping[str, str]:
        return self.probe.census(pods, names, seconds)

    @property
    def traffic(self) -> tuple[BatchTraffic, ...]:
        """The requests of each batch that this run has restarted."""
        return tuple(self._watch.rows)

    @property
    def record(self) -> RotationRecord:
        record = self._claim.record
        if record is None:
            raise RuntimeError("the rotation has not started")
        return record

    def read(self, data_plane: DataPlane | None = None) -> RotationSnapshot:
        begin = time.monotonic()
        snapshot = read_rotation(self._mesh, self.record.goal, data_plane)
        if data_plane is None:
            self._see(begin, snapshot.data_plane)
        return snapshot

    def _see(self, begin: float, data_plane: DataPlane) -> None:
        self._seen = begin, data_plane
        self._whole = data_plane

    def _read_pods(self) -> RotationSnapshot:
        """Reads the current state; of the data plane only the pods, which is all a proof needs."""
        begin, (_, known) = time.monotonic(), self._seen
        if known is None:
            return self.read()
        snapshot = self.read(with_current_pods(self._mesh.cluster, known))
        self._seen = begin, snapshot.data_plane
        return snapshot

    def _is_fresh(self, snapshot: RotationSnapshot) -> bool:
        """Whether a snapshot is the latest one and was read just now."""
        at, data_plane = self._seen
        return snapshot.data_plane is data_plane and time.monotonic() < at + FRESH

    def _keep_snapshot(self, snapshot: RotationSnapshot) -> None:
        """Keeps a snapshot for the next step, as nothing changes in between.

        A Certificate's anchor can change by itself, so with one each step reads again.
        """
        self._handed = snapshot if snapshot.anchor is None else None

    def _take_snapshot(self) -> RotationSnapshot:
        """The snapshot that the previous step kept if it is still fresh, else a new one."""
        handed, self._handed = self._handed, None
        return handed if handed is not None and self._is_fresh(handed) else self.read()

    def next_phase(self, *, recover: bool = False) -> PhaseName:
        """The first phase whose proof does not hold, by the state of the cluster."""
        snapshot = self._take_snapshot()
        if recover:
            return recovery_phase(snapshot)
        self._follow_cert_manager(snapshot)
        takes = spread_takes(snapshot, self._options)
        phase = next_phase(snapshot, takes)
        # Only its issue time proves that a certificate was renewed.
        if phase in ("bundle", "switch") and snapshot.loaded_since is not None:
            snapshot = self._with_issued(snapshot)
            phase = next_phase(snapshot, takes)
        self._keep_snapshot(snapshot)
        return phase

    def _follow_cert_manager(self, snapshot: RotationSnapshot) -> None:
        """Records an anchor that cert-manager has made since as the goal."""
        record = self.record
        if snapshot.anchor is None or snapshot.goal in ("", record.goal):
            return
        current = snapshot.anchor.current
        self._claim.save(
            replace(
                record,
                goal=current.fingerprint,
                anchors=join_bundle([record.anchors, current.pem]),
                signing_since="",
            )
        )
        self._claim.tell(record.phase, f"To {current.subject}, sha256 {current.fingerprint}.")

    def advance(self, phase: PhaseName, on_progress: OnProgress, *, recover: bool = False) -> None:
        """Runs one phase, and proves it.

        Raises:
            NotReady: the phase did not have its effect.
            RequestsFailed: more of the probe's requests failed than allowed.
        """
        does: dict[PhaseName, Callable[[OnProgress], None]] = {
            "prepare": self.prepare,
            "renew": self.renew,
            "bundle": self.bundle_alone if recover else self.bundle,
            "spread": self.recover if recover else self.spread,
            "switch": self.issue if recover else self.switch,
            "drop": self.drop,
        }
        does[phase](on_progress)
        self.conclude(phase)

    # prepare

    def is_done_since(self, seen: RotationRecord | None) -> bool:
        """Whether a rotation that was open or did not exist when `seen` was read has finished."""
        record = self._claim.record
        return record is not None and not record.is_open and record != seen

    def begin(self, new: NewAnchor, action: Action) -> RotationRecord:
        """Stores the new anchor's key, then records the rotation; or resumes an open one."""
        record = self._claim.record
        now = self._mesh.cluster.clock()
        if record is not None and record.is_open:
            pace = "quick" if action == "drop" else self._options.pace
            if pace not in ("auto", record.pace):
                record = self._claim.save(replace(record, pace=pace))
                self._claim.tell(record.phase, f"The pace is {pace} from here on.")
            if action == "abort" and not record.is_going_back:
                if self._has_no_way_back():
                    self._claim.tell(record.phase, f"Abort: {NO_WAY_BACK}")
                    return self.record
                record = replace(self.record, goal=record.origin, signing_since="", dropped="")
                record = replace(record, drop_by="")
                record = self._claim.save(record)
                self._claim.tell(record.phase, "Aborted: the old anchor is the goal again.")
            return self.record
        if action == "abort":
            raise nothing_to_abort()
        if action == "drop":
            return self._begin_to_drop(record)
        at = time.monotonic()
        snapshot = read_rotation(self._mesh, "")
        if snapshot.anchor is not None:
            return self._begin_with(snapshot, snapshot.anchor, new, action)
        roots = snapshot.bundle.roots
        pair = self._new_pair(new, roots, now)
        info = check_new_anchor(pair.certificate, self._mesh.config, roots, now)
        if not snapshot.is_chained and action != "recover":
            raise InvalidInput(
                f"Secret {ISSUER_SECRET}",
                expected="an issuer that an anchor of the trust bundle signed",
                found="none",
                remedy="See verify_mesh for the cause; rotate_anchor with recover gives the mesh "
                "a new anchor and issuer, with downtime.",
            )
        self._claim.save(
            RotationRecord(
                goal=info.fingerprint,
                origin=snapshot.issuer_anchor or "",
                anchors=join_bundle([roots, info.pem]),
                phase="prepare",
                begun=now.isoformat(timespec="seconds"),
                pace="quick"
                if action == "recover"
                else pace_of(self._mesh.cluster, snapshot, self._options),
            )
        )
        self._claim.tell("prepare", f"To {info.subject}, sha256 {info.fingerprint}.")
        self._see(at, snapshot.data_plane)
        self._keep_snapshot(self.read(snapshot.data_plane))
        return self.record

    def _begin_to_drop(self, record: RotationRecord | None) -> RotationRecord:
        """Reopens a gentle rotation for its last round of restarts."""
        if record is None:
            raise nothing_to_drop()
        self._claim.save(replace(record, phase="drop", pace="quick"))
        self._claim.tell("drop", "Workloads that still trust the old anchor are restarted.")
        return self.record

    def _has_no_way_back(self) -> bool:
        """Whether cert-manager has made the new anchor, or is about to."""
        snapshot = read_rotation(self._mesh, self.record.origin)
        return snapshot.anchor is not None and snapshot.goal != self.record.origin

    def _begin_with(
        self,
        snapshot: RotationSnapshot,
        anchor: CertificateAnchor,
        new: NewAnchor,
        action: Action,
    ) -> RotationRecord:
        """Records a rotation of a Certificate's anchor, or takes over one started elsewhere."""
        takes = spread_takes(snapshot, self._options)
        expired = is_expired(snapshot, anchor.read_at)
        require_certificate_layout(snapshot, new, action, takes, expired=expired)
        current = anchor.current
        origin, goal, anchors = current.fingerprint, "", current.pem
        if not snapshot.is_settled_on_current:
            kept = anchors_to_keep(snapshot)
            first = next(iter(kept), current)
            is_signer_old = snapshot.issuer_anchor not in (None, current.fingerprint)
            origin = snapshot.issuer_anchor or "" if is_signer_old else first.fingerprint
            goal = current.fingerprint
            anchors = join_bundle([*(info.pem for info in kept), current.pem])
        now = anchor.read_at
        self._claim.save(
            RotationRecord(
                goal=goal,
                origin=origin,
                anchors=anchors,
                phase="prepare",
                begun=now.isoformat(timespec="seconds"),
            )
        )
        by = anchor.anchor.subject
        text = f"To the anchor that {by} has: {goal}." if goal else f"To a new anchor of {by}."
        self._claim.tell("prepare", text)
        return self.record

    def _new_pair(self, new: NewAnchor, roots: str, now: datetime) -> KeyPair:
        """The new anchor; its key is stored beside the old one's before anything uses it."""
        config, own = self._mesh.config, cluster_uid(self._mesh.cluster)
        if new.is_provided:
            provided = new.as_config(config.trust_anchor)
            certificate = provided_certificate(provided) or ""
            pair = KeyPair(certificate, provided_key(provided, certificate), own)
            self._ring.next.replace(pair)
            return pair
        # An anchor from a run that was killed before it recorded the rotation.
        kept = self._ring.next.load()
        if kept is not None:
            try:
                check_new_anchor(kept.certificate, config, roots, now)
            except MeshError:
                pass
            else:
                return kept
        pair = replace(
            create_trust_anchor(config.trust_domain, config.lifetimes.anchor, now), cluster=own
        )
        self._ring.next.replace(pair)
        return pair

    def prepare(self, on_progress: OnProgress) -> None:
        """Copies a Certificate's current anchor, and renews the issuer if it is due too soon.

        Raises:
            NotReady: trust-manager or cert-manager did not do its part.
        """
        anchor = self._certificate_anchor()
        origin = self.record.origin
        self._claim.check()
        if origin not in anchor.copy.anchors and copy_current(self._mesh.cluster, anchor, origin):
            self._claim.tell("prepare", f"{anchor.copy.subject} has the current anchor.")
        await_roots(self._mesh, frozenset({origin}), may_have_more=True)
        snapshot = self.read()
        if is_issuer_due(snapshot, spread_takes(snapshot, self._options)):
            self._claim.check()
            on_progress(0, 1, f"renewing {anchor.issuer.subject}, which is due too soon")
            self._reissue(lambda _: True)
            self._claim.tell("prepare", "The issuer was renewed, as it was due too soon.")

    # renew

    def renew(self, on_progress: OnProgress) -> None:
        """Has cert-manager make a new anchor.

        Raises:
            NotReady: it made none; quotes its conditions.
        """
        snapshot = self.read()
        if not is_prepared(snapshot, spread_takes(snapshot, self._options)):
            # Waiting for an approval may have taken too long.
            self.prepare(on_progress)
        anchor = self._certificate_anchor()
        owner, origin = anchor.anchor, self.record.origin
        self._claim.check()
        timeout = self._mesh.config.timeout_seconds
        if anchor.current.fingerprint == origin:
            self._claim.tell("renew", f"{owner.subject} is renewed. {NO_WAY_BACK}")
            renew(self._mesh.cluster, owner.namespace, owner.name)
        for is_last in polls(timeout, every=0.3):
            made = await_issued(
                self._mesh.cluster, owner.namespace, owner.name, anchor.secret, timeout
            )
            if anchors_in(made.certificate) != frozenset({origin}):
                break
            if is_last:
                raise NotReady(
                    owner.subject,
                    expected="cert-manager to make a new anchor",
                    found="the old one",
                    remedy="Look at its conditions and cert-manager's log, then run again.",
                )
        self._follow_cert_manager(self.read())

    def _certificate_anchor(self) -> CertificateAnchor:
        anchor = self.read().anchor
        if anchor is None:
            raise NotReady(
                f"mesh {self._mesh.config.name}",
                expected="the Certificate that owned the trust anchor when the rotation started",
                found="none",
                remedy="Create it again, then run again.",
            )
        return anchor

    # bundle

    def bundle(self, on_progress: OnProgress) -> None:
        """Adds the goal to the trust bundle."""
        record = self.record
        self._claim.check()
        snapshot = self._take_snapshot()
        if snapshot.anchor is not None:
            self._bundle_of_secrets(snapshot, snapshot.anchor)
            return
        if record.is_gentle:
            record = self._note_lifetime(snapshot)
        wanted = with_anchor(snapshot.bundle.roots, anchor_of(record, record.goal).pem)
        shortened = record.shortened if record.is_shortened else ""
        self._write(
            wanted,
            on_progress,
            lambda values: with_lifetime(values, shortened) if shortened else dict(values),
        )
        self._claim.tell("bundle", f"{len(read_certificates(wanted, 'bundle'))} anchors trusted.")
        if shortened:
            since = self._mesh.cluster.clock().isoformat()
            self._claim.save(replace(self.record, short_since=since))
            self._claim.tell("bundle", f"Proxies' certificates last {shortened} from now on.")

    def _note_lifetime(self, snapshot: RotationSnapshot) -> RotationRecord:
        """Records the certificates' lifetime before it is shortened, so it can be restored."""
        record = self.record
        wanted = timedelta(minutes=self._options.leaf_minutes)
        if record.is_shortened or self._leaf_times(snapshot.bundle).span <= wanted:
            return record
        release = snapshot.bundle.release
        return self._claim.save(
            replace(
                record,
                shortened=durationpy.to_str(wanted),
                lifetime=text_at(release.values or {}, *LIFETIME) if release is not None else "",
                is_lengthened=False,
                short_since="",
            )
        )

    def _leaf_times(self, bundle: TrustBundle) -> LeafTimes:
        release = bundle.release
        values = release.values if release is not None else None
        return leaf_times(values or {}, self._mesh.control_plane_chart.defaults)

    def _bundle_of_secrets(self, snapshot: RotationSnapshot, anchor: CertificateAnchor) -> None:
        """Has the bundle hold every anchor of the rotation, from the two Secrets that it reads."""
        record = self.record
        old = snapshot.participants - snapshot.bundle.fixed - {anchor.current.fingerprint}
        if not old <= anchor.copy.anchors:
            keep_anchors(
                self._mesh.cluster,
                anchor,
                join_bundle([anchor_of(record, each).pem for each in old]),
            )
            self._claim.tell("bundle", f"{anchor.copy.subject} has all anchors still in use.")
        wanted = snapshot.participants | {anchor.current.fingerprint}
        await_roots(self._mesh, wanted, may_have_more=True)
        self._claim.tell("bundle", f"{len(wanted)} anchors trusted.")

    def bundle_alone(self, on_progress: OnProgress) -> None:
        """Reduces the trust bundle to the goal, for a recovery."""
        record = self.record
        self._claim.check()
        wanted = join_bundle([anchor_of(record, record.goal).pem])
        # Helm waits for proxies that need a certificate, so identity has to sign before it runs.
        namespace = self._mesh.config.namespaces.linkerd
        self._mesh.cluster.merge(
            "v1", "ConfigMap", TRUST_ROOTS, namespace, {"data": {BUNDLE: wanted}}
        )
        identity = Workload("Deployment", namespace, IDENTITY)
        restart(self._mesh.cluster, identity, self._mesh.cluster.clock())
        await_rollouts(
            self._mesh.cluster, [identity], self._mesh.config.timeout_seconds, on_progress
        )
        self._write_alone(wanted, on_progress)
        self._claim.tell("bundle", "Only the new anchor is trusted.")

    def _write_alone(self, wanted: str, on_progress: OnProgress) -> None:
        """Removes the old anchor from the bundle, and restores the certificates' lifetime."""
        record = self.record
        self._write(wanted, on_progress, lambda values: with_lifetime_restored(values, record))
        now = self._mesh.cluster.clock()
        hours = self._options.drop_by_hours
        until = now + timedelta(hours=hours) if hours is not None else None
        self._claim.save(
            replace(
                self.record,
                is_lengthened=True,
                dropped=record.dropped or now.isoformat(),
                drop_by=record.drop_by or (until.isoformat() if until is not None else ""),
                # With no time for proxies to drop it by themselves, they are restarted.
                pace="quick" if hours == 0 else record.pace,
            )
        )

    def _write(self, wanted: str, on_progress: OnProgress, change: Change = dict) -> None:
        write_trust_bundle(self._mesh, wanted, on_progress, change)

    # spread

    def spread(self, on_progress: OnProgress) -> None:
        """Restarts workloads until every proxy trusts the goal."""
        snapshot = self._take_snapshot()
        if snapshot.anchor is not None:
            # Identity skips an issuer under the new anchor until it restarts: see `phases`.
            self._restart("spread", on_progress, snapshot, but_identity=True)
            snapshot = self.read()
        self._restart("spread", on_progress, snapshot)

    # switch

    def switch(self, on_progress: OnProgress) -> None:
        """Has the goal sign the issuer, and gives every proxy a certificate under it."""
        snapshot = self._take_snapshot()
        if next_phase(snapshot) in ("bundle", "spread"):
            raise NotReady(
                f"mesh {self._mesh.config.name}",
                expected="every running proxy to trust the new anchor before it signs",
                found=", ".join(p.subject for p in unproven(snapshot, "spread")) or "the bundle",
                remedy="Run again.",
            )
        if snapshot.issuer_anchor != self.record.goal:
            self.issue()
        self.await_load(on_progress)
        if self.record.is_gentle:
            self._renew_gently(on_progress)
        elif self._options.renewal == "restart":
            self._restart("switch", on_progress)
        else:
            self._await_renewal(on_progress)

    def issue(self, _on_progress: OnProgress | None = None) -> None:
        """Makes a new issuer, signed by the goal, in a single write of the Secret."""
        self._claim.check()
        if self.record.signing_since:
            # A failed upgrade of a chart-made issuer has restored the old issuer.
            self._claim.save(replace(self.record, signing_since=""))
        goal = self.record.goal
        if self._mesh.config.issuer == "cert-manager":
            if self.read().anchor is None:
                self._ring.promote(goal)
            self._reissue(lambda secret: chains_to(secret.certificate, self.record, goal))
        else:
            self._sign(goal)
        self._claim.tell("switch", f"The issuer is signed by {goal}.")

    def _sign(self, goal: str) -> None:
        namespace = self._mesh.config.namespaces.linkerd
        there = read_tls_secret(self._mesh.cluster, ISSUER_SECRET, namespace)
        pair = self._ring.find(goal)
        if pair is None:
            self._restore(goal)
            return
        if there is not None and there.private_key is not None:
            # For rolling back if the old anchor's key is not available.
            kept = tls_secret(
                PREVIOUS_ISSUER, namespace, there.certificate, there.private_key, there.authority
            )
            self._mesh.cluster.apply(kept)
        self._ring.promote(goal)
        write_issuer(self._mesh, pair, self.record.anchors)

    def _restore(self, goal: str) -> None:
        namespace = self._mesh.config.namespaces.linkerd
        kept = read_tls_secret(self._mesh.cluster, PREVIOUS_ISSUER, namespace)
        is_goals = kept is not None and chains_to(kept.certificate, self.record, goal)
        if kept is None or kept.private_key is None or not is_goals:
            self._ring.require(goal)
            return
        now = self._mesh.cluster.clock()
        check_issuer(
            kept.certificate,
            self.record.anchors,
            self._mesh.config.trust_domain,
            now,
            f"Secret/{namespace}/{PREVIOUS_ISSUER}",
            version=self._mesh.config.linkerd,
        )
        issuer = KeyPair(kept.certificate, kept.private_key)
        put_issuer(self._mesh, issuer, kept.authority)

    def _reissue(self, is_done: Callable[[TlsSecret], bool]) -> None:
        name = issuer_certificate(self._mesh)
        timeout = self._mesh.config.timeout_seconds
        for _ in range(REISSUES):
            reissue(self._mesh, name)
            secret = await_reissued(self._mesh, timeout, name)
            if is_done(secret):
                return
        raise NotReady(
            f"Certificate/{self._mesh.config.namespaces.linkerd}/{ISSUER_SECRET}",
            expected="an issuer in cert-manager's Secret that the trust anchor signed",
            found=f"one that another anchor signed, {REISSUES} times",
            remedy="Look at cert-manager's log, and at which Secret its issuer reads.",
        )

    def await_load(self, on_progress: OnProgress) -> None:
        """Waits until every identity pod signs under the goal; restarts them if they do not."""
        since = self.record.since()
        if since is None:
            self._claim.check()
            since = ensure_loaded(self._mesh, self._options.load_seconds, on_progress)
            self._claim.save(replace(self.record, signing_since=since.isoformat()))
            self._claim.tell("switch", f"Identity has signed with it since {since:%H:%M:%S} UTC.")
        self._wait_until(since)

    def _renew_gently(self, on_progress: OnProgress) -> None:
        """Waits until proxies renew by themselves; restarts those that have not renewed in time."""
        times = self._leaf_times(read_trust_bundle(self._mesh))
        is_short = times.is_short(self._options, self.record)
        if is_short:
            self._restart_early_ones(on_progress)
        # The probe's new pods, with certificates from the new issuer, call those yet to renew.
        self._next_generation("switch")
        if is_short:
            late = self._await_renewals(times, on_progress)
        else:
            # Somebody has restored the lifetime, or it was never shortened.
            late = list(unproven(self._with_issued(self.read()), "switch"))
        if late:
            named = ", ".join(pod.subject for pod in late[:5]) + (", …" if len(late) > 5 else "")
            text = f"{len(late)} proxies have not renewed by themselves and are restarted: {named}."
            self._claim.tell("switch", text)
            self._restart("switch", on_progress)
        else:
            self._prove("switch")
        if self.probe.asks:
            self.probe.leave("switch")

    def _restart_early_ones(self, on_progress: OnProgress) -> None:
        """Restarts pods that started while Helm was replacing identity: most of the control plane.

        The old identity pod may have given them certificates with the long lifetime.
        """
        if not self.record.short_since:
            return
        since = datetime.fromisoformat(self.record.short_since)

        def judge(plane: DataPlane) -> Needs:
            unproven_one = needs_restart(self.read(plane), "switch")
            return lambda pod: unproven_one(pod) and (pod.started is None or pod.started < since)

        tolerated = self._tolerated()
        self._restart_all("switch", judge, on_progress, tolerated)

    def _tolerated(self, snapshot: RotationSnapshot | None = None) -> frozenset[Workload]:
        """The unhealthy workloads if the options allow any; only then reads a snapshot."""
        if not self._options.allow_unhealthy:
            return frozenset()
        return unhealthy_workloads(snapshot or self.read())

    def _await_renewals(self, times: LeafTimes, on_progress: OnProgress) -> list[Pod]:
        """Waits, and returns the pods that have not renewed when every proxy should have.

        Queries a few first, and the others once these have renewed or no time is left.
        """
        cluster, every = self._mesh.cluster, times.renewal
        now = cluster.clock()
        since = self.record.since() or now
        # Pods that start meanwhile get certificates from the new issuer.
        pods = (self._seen[1] or self.read().data_plane).pods
        due = all_renewed_at(pods, self._issued, since, every)
        for is_due in polls((due - now).total_seconds(), every=CHECKED):
            self._check_switch()
            if not is_due:
                on_progress(0, len(pods), f"proxies renew by themselves until {due:%H:%M:%S} UTC")
        snapshot, now = self._read_pods(), cluster.clock()
        until = since + every + times.grace
        silent: frozenset[str] = frozenset()
        few: tuple[Pod, ...] = ()
        late: list[Pod] = []

        def pause() -> float:
            # The pods queried have shown when their certificates were issued, so when they renew.
            due = all_renewed_at(few, self._issued, since, every)
            return max((due - cluster.clock()).total_seconds(), 2.0)

        for is_last in polls((until - now).total_seconds(), every=pause):
            self._check_switch()
            few = queried_first(self._yet_to_renew(snapshot), self._issued, silent, since, every)
            unanswered = self._ask(snapshot, few)
            if unanswered - silent:
                # Pods come and go.
                snapshot = self._read_pods()
            silent |= unanswered
            late = self._yet_to_renew(snapshot)
            if is_last or not {pod.uid for pod in few} & {pod.uid for pod in late}:
                silent |= self._ask(snapshot, late)
                late = self._yet_to_renew(snapshot)
            total = len(snapshot.data_plane.pods)
            on_progress(total - len(late), total, "waiting for proxies to renew")
            if not late or is_last:
                break
        return late

    def _yet_to_renew(self, snapshot: RotationSnapshot) -> list[Pod]:
        """The pods not known to have a certificate under the goal; sends no queries."""
        return list(unproven(replace(snapshot, issued=self._issued), "switch"))

    def _check_switch(self) -> None:
        self._claim.check()
        self.probe.check("switch, while proxies renew")

    def _next_generation(self, phase: str) -> None:
        if self.probe.asks:
            self.probe.arrive(phase)

    def _await_renewal(self, on_progress: OnProgress) -> None:
        """Waits until every proxy has renewed its certificate by itself."""
        lifetime = self._mesh.config.lifetimes.leaf_hours * 3600
        for is_last in polls(lifetime, every=min(30.0, lifetime / 100)):
            self._check_switch()
            snapshot, now = self.read(), self._mesh.cluster.clock()
            since, every = snapshot.loaded_since or now, self._leaf_times(snapshot.bundle).renewal
            late = self._yet_to_renew(snapshot)
            self._ask(snapshot, may_have_renewed(late, self._issued, since, every, now))
            total = len(snapshot.data_plane.pods)
            left = self._yet_to_renew(snapshot)
            on_progress(total - len(left), total, "waiting for proxies to renew")
            if not left:
                return
            if is_last:
                raise self._unproven("switch", snapshot)

    def _with_issued(self, snapshot: RotationSnapshot) -> RotationSnapshot:
        """The snapshot with the issue times of certificates; queries only pods not yet proven."""
        if snapshot.loaded_since is not None:
            self._ask(snapshot, self._yet_to_renew(snapshot))
        return replace(snapshot, issued=dict(self._issued))

    def _ask(self, snapshot: RotationSnapshot, pods: Sequence[Pod]) -> frozenset[str]:
        """Queries proxies for their certificates' issue times; returns the UIDs without one."""
        if not pods:
            return frozenset()
        lifetimes = self._leaf_times(snapshot.bundle).lifetimes(self._claim.record)
        found = read_issued(self._mesh.cluster, pods, lifetimes, self._census)
        self._issued |= found
        return frozenset(pod.uid for pod in pods) - found.keys()

    # drop

    def drop(self, on_progress: OnProgress) -> None:
        """Leaves only the goal trusted, once no proxy has a certificate under another anchor."""
        snapshot = self._with_issued(self._take_snapshot())
        if next_phase(snapshot) in ("bundle", "spread", "switch"):
            left = ", ".join(p.subject for p in unproven(snapshot, "switch"))
            raise NotReady(
                f"mesh {self._mesh.config.name}",
                expected="no proxy to need the old anchor before it is dropped",
                found=left or "an issuer that it signed",
                remedy="Run again.",
            )
        self._claim.check()
        if self.record.since() is None and snapshot.loaded_since is not None:
            # Identity restarts now; without this time, certificates from before would count as old.
            since = snapshot.loaded_since.isoformat()
            self._claim.save(replace(self.record, signing_since=since))
        if snapshot.anchor is not None:
            self._drop_copy(snapshot.anchor, on_progress)
        else:
            self._write_alone(only(self.record.anchors, self.record.goal), on_progress)
        self._claim.tell("drop", "The trust bundle holds one anchor.")
        if not self.record.is_gentle:
            self._restart("drop", on_progress)
            return
        # The probe's new pods, which trust only the new anchor, call those that trust both.
        self._next_generation("drop")
        if self.probe.asks:
            self.probe.leave("drop")

    def _drop_copy(self, anchor: CertificateAnchor, on_progress: OnProgress) -> None:
        goal = self.record.goal
        if not copy_current(self._mesh.cluster, anchor, goal):
            raise NotReady(
                anchor.anchor.subject,
                expected=f"the anchor {goal}, which the whole mesh uses",
                found="that cert-manager has renewed it again",
                remedy="Run again: the rotation continues to the new one.",
            )
        await_roots(self._mesh, self.read().bundle.fixed | {goal})
        declare(self._mesh, on_progress)

    # recover

    def recover(self, on_progress: OnProgress) -> None:
        """Restarts everything once, so each proxy starts with the new anchor and a certificate."""
        self.await_load(on_progress)
        snapshot = self.read()
        self._wait_until(snapshot.bundle.settled)

        def judge(plane: DataPlane) -> Needs:
            recovered = is_recovered(self.read(plane))
            return lambda pod: not recovered(pod)

        # Without certificates hardly anything is ready, so do not wait for unhealthy workloads.
        self._restart_all("spread", judge, on_progress, unhealthy_workloads(snapshot), is_down=True)

    # done

    def finish(self) -> RotationSnapshot:
        """Verifies the mesh, and deletes keys that only a rollback needed.

        Raises:
            NotReady: the issuer is missing, or a workload is not rolled out.
        """
        self._claim.check()
        namespace = self._mesh.config.namespaces.linkerd
        snapshot = self._take_snapshot()
        secret = self._mesh.cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
        if secret is None:
            raise NotReady(
                f"Secret/{namespace}/{ISSUER_SECRET}",
                expected="the issuer",
                found="nothing",
                remedy="Run again.",
            )
        check_issuer_secret(
            secret, self._mesh.config, snapshot.bundle.roots, self._mesh.cluster.clock()
        )
        late = [
            obj["metadata"]["name"]
            for obj in read_workloads(self._mesh.cluster, namespace)
            if not rollout_status(obj).is_complete
        ]
        if late:
            raise NotReady(
                f"Deployment/{namespace}/{late[0]}",
                expected="it to be rolled out",
                found="that it is not",
                remedy="Fix it, then run again.",
            )
        if snapshot.anchor is None:
            self._ring.settle(self.record.goal)
            self._mesh.cluster.delete("v1", "Secret", PREVIOUS_ISSUER, namespace)
        self._claim.tell("done", "The mesh has one anchor, and everything uses it.")
        if left := [p for p in snapshot.data_plane.pods if not snapshot.trusts_goal_alone(p)]:
            text = f"{len(left)} proxies still trust the old anchor too, until they restart."
            self._claim.tell("done", text)
        if self.probe.asks:
            self._claim.tell("done", f"Probe of this run: {self.probe.outcome.sentence}.")
        return snapshot

    # Parts

    def conclude(self, phase: PhaseName) -> None:
        """Records the probe's counts for a phase.

        Raises:
            RequestsFailed: more of its requests failed than allowed.
        """
        if text := self.probe.conclude(phase):
            self._claim.tell(phase, f"Probe: {text}.")

    def _restart(
        self,
        phase: PhaseName,
        on_progress: OnProgress,
        snapshot: RotationSnapshot | None = None,
        *,
        but_identity: bool = False,
    ) -> None:
        snapshot = first = snapshot or self.read()
        if phase != "switch" and any(
            snapshot.trusted_by(p) is None for p in snapshot.data_plane.pods
        ):
            # Their new pods are proven by start time, which must surely be after the bundle's.
            self._wait_until(snapshot.bundle.settled)
        tolerated = self._tolerated(snapshot)
        judged_at = 0.0

        def judge(plane: DataPlane) -> Needs:
            nonlocal judged_at, snapshot
            is_first = plane is first.data_plane
            judged_at = self._seen[0] if is_first else time.monotonic()
            snapshot = first if is_first else self.read(plane)
            if phase == "switch" and self.record.is_gentle:
                snapshot = self._with_issued(snapshot)
            needs = needs_restart(snapshot, phase)
            left_out = {pod.uid for pod in identity_pods(plane)} if but_identity else set[str]()
            return lambda pod: pod.uid not in left_out and needs(pod)

        self._claim.tell(phase, "Restarting the workloads that need it.")
        self._restart_all(phase, judge, on_progress, tolerated, snapshot)
        plane, probe = snapshot.data_plane, self.probe
        # The probe's older generations have been deleted since.
        pods = tuple(pod for pod in plane.pods if not probe.is_own(pod) or probe.is_newest(pod))
        known = replace(snapshot, data_plane=replace(plane, pods=pods))
        self._seen = judged_at, known.data_plane
        self._prove(phase, known, but_identity=but_identity)

    def _restart_all(
        self,
        phase: PhaseName,
        judge: Callable[[DataPlane], Needs],
        on_progress: OnProgress,
        tolerated: frozenset[Workload],
        first: RotationSnapshot | None = None,
        *,
        is_down: bool = False,
    ) -> None:
        """Restarts the workloads that need it.

        Args:
            first: a snapshot to start with instead of reading again, if it is fresh.
            is_down: whether requests fail anyway.
        """
        watch = self._watch
        # Do not stop a rollback halfway: that would not help the mesh.
        watch.phase, watch.stops = phase, not self.record.is_going_back

        def before(batch: Batch) -> None:
            record = self.record
            done = record.restarted.get(phase, ())
            names = tuple(map(str, batch.workloads))
            restarted = {**record.restarted, phase: tuple(dict.fromkeys((*done, *names)))}
            self._claim.save(replace(record, restarted=restarted))

        def read() -> DataPlane:
            nonlocal first
            given, first = first, None
            if given is not None and given.data_plane is self._whole and self._is_fresh(given):
                return given.data_plane
            return read_data_plane(self._mesh.cluster, self._mesh.config.namespaces.linkerd)

        restart_with_probe(
            self.probe,
            phase,
            self._mesh.cluster,
            read,
            judge,
            self._options.restarts,
            timeout=self._mesh.config.timeout_seconds,
            on_progress=on_progress,
            tolerated=tolerated,
            before_batch=before,
            watch=None if is_down else watch,
        )

    def _prove(
        self, phase: PhaseName, known: RotationSnapshot | None = None, *, but_identity: bool = False
    ) -> None:
        """Waits until the last old pods are deleted, then checks that the phase's proof holds.

        Args:
            known: the latest snapshot; used for the proof if it is fresh.
        """

        def lacking(snapshot: RotationSnapshot) -> list[Pod]:
            left_out = identity_pods(snapshot.data_plane) if but_identity else []
            return [pod for pod in unproven(snapshot, phase) if pod not in left_out]

        for is_last in polls(self._mesh.config.timeout_seconds, every=1.0):
            is_known = known is not None and self._is_fresh(known) and not lacking(known)
            snapshot = known if known is not None and is_known else self._read_pods()
            left = lacking(snapshot)
            if left and phase == "switch":
                # Pods that are not restarted may have renewed by themselves.
                snapshot = self._with_issued(snapshot)
                left = lacking(snapshot)
            if not left and but_identity:
                return
            if not left:
                text = f"Proven for {len(snapshot.data_plane.pods)} proxies."
                self._claim.tell(phase, text)
                self._keep_snapshot(snapshot)
                return
            lasting = [pod for pod in left if not pod.is_deleting]
            if lasting or is_last:
                raise self._unproven(phase, snapshot)

    def _unproven(self, phase: PhaseName, snapshot: RotationSnapshot) -> NotReady:
        cluster, namespace = self._mesh.cluster, self._mesh.config.namespaces.linkerd
        data_plane = replace(read_data_plane(cluster, namespace), pods=snapshot.data_plane.pods)
        plan = plan_restarts(data_plane, needs_restart(snapshot, phase), self._options.restarts)
        left = [str(item) for item in plan.manual]
        left += [pod.subject for pod in unproven(snapshot, phase)]
        proof = next(each.proof for each in phases_of(snapshot) if each.name == phase)
        return NotReady(
            f"mesh {self._mesh.config.name}, phase {phase}",
            expected=f'"{proof.removesuffix(".")}"',
            found=" | ".join(left[:20]),
            remedy="Manually restart what is named, then run again: it resumes from here.",
        )

    def _wait_until(self, moment: datetime | None) -> None:
        if moment is not None:
            self._mesh.cluster.wait_until(moment)
