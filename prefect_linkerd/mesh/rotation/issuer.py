"""Rotating a mesh's issuer alone: the current trust anchor signs a new one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prefect_linkerd.mesh.errors import InvalidInput, NotReady
from prefect_linkerd.mesh.identity.issuer import check_issuer_secret
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TlsSecret, read_tls_secret
from prefect_linkerd.mesh.kubernetes.rollout import OnProgress
from prefect_linkerd.mesh.kubernetes.waiting import polls
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import CertificateInfo, read_certificates
from prefect_linkerd.mesh.probe.counts import ProbeOutcome
from prefect_linkerd.mesh.probe.restarting import restart_with_probe
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.records.rotation import RECORD, RotationClaim, read_record
from prefect_linkerd.mesh.restarts import DataPlane, Needs, read_data_plane
from prefect_linkerd.mesh.rotation.issuer_renewal import (
    await_reissued,
    ensure_loaded,
    issuer_certificate,
    reissue,
    require_writable,
    write_issuer,
)
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.options import RotationOptions
from prefect_linkerd.mesh.rotation.permissions import issuer_permissions, lacking, require
from prefect_linkerd.mesh.rotation.phases import is_expired
from prefect_linkerd.mesh.rotation.preconditions import renewed_there
from prefect_linkerd.mesh.rotation.snapshot import RotationSnapshot, read_rotation
from prefect_linkerd.mesh.rotation.trust_bundle import require_installed, write_release
from prefect_linkerd.mesh.traffic.watch import BatchTraffic, TrafficWatch

NO_REQUESTS = Probe().outcome


@dataclass(frozen=True)
class IssuerRotation:
    """The result: the issuer before and after, and the time since which identity signs with it.

    `requests` holds the probe's counts during the rotation, `traffic` the workloads' own requests
    around each batch of restarts.
    """

    before: CertificateInfo | None
    after: CertificateInfo
    since: datetime
    restarted: int
    requests: ProbeOutcome = NO_REQUESTS
    traffic: tuple[BatchTraffic, ...] = ()


def inspect_issuer(mesh: Mesh, ring: KeyRing, options: RotationOptions) -> RotationSnapshot:
    """Checks that the issuer can be rotated; changes nothing.

    Raises:
        OwnershipConflict: the issuer belongs to somebody else.
        InvalidInput: the anchor is being rotated, has expired, or its key is missing; or the
            issuer has expired and downtime is not accepted.
        PreflightFailed: this identity lacks permissions that the rotation needs.
    """
    namespace = mesh.config.namespaces.linkerd
    record = read_record(mesh.cluster, namespace)
    if record is not None and record.is_open:
        raise InvalidInput(
            f"ConfigMap/{namespace}/{RECORD}",
            expected="no rotation of the trust anchor under way",
            found=f"one in phase {record.phase}",
            remedy="Let rotate_anchor finish, which makes a new issuer as well.",
        )
    snapshot = read_rotation(mesh, "")
    if snapshot.issuer_anchor is None or not snapshot.is_chained:
        raise InvalidInput(
            f"Secret/{namespace}/{ISSUER_SECRET}",
            expected="an issuer that an anchor of the trust bundle signed",
            found="none",
            remedy="Put the anchor that signed it back into the trust bundle, or run rotate_anchor "
            "with recover and accept_downtime."
            if snapshot.anchor is None
            else "Put the anchor that signed it back into the trust bundle.",
        )
    expired = is_expired(snapshot, now := mesh.cluster.clock())
    if expired:
        # An anchor kept by a Certificate may be missing from the bundle.
        for signer in read_certificates(snapshot.bundle.roots, "trust bundle"):
            if signer.fingerprint != snapshot.issuer_anchor or now < signer.not_after:
                continue
            raise InvalidInput(
                f"trust anchor {signer.subject}",
                expected="a valid anchor to sign an issuer with",
                found=f"one that expired at {signer.not_after:%Y-%m-%d %H:%M} UTC",
                remedy="Run rotate_anchor with recover and accept_downtime."
                if snapshot.anchor is None
                else renewed_there(snapshot.anchor),
            )
        if not options.accept_downtime:
            raise InvalidInput(
                f"Secret/{namespace}/{ISSUER_SECRET}",
                expected="accept_downtime, because the issuer has expired: proxies without a "
                "certificate cannot reach each other until they have all been restarted",
                found="that it is off",
                remedy="Turn accept_downtime on.",
            )
    if snapshot.anchor is None:
        ring.require(snapshot.issuer_anchor)
    elif not snapshot.trusts_current:
        owner = snapshot.anchor.anchor.subject
        raise InvalidInput(
            owner,
            expected="every proxy to trust it before it signs a new issuer",
            found="that cert-manager has renewed it and not every proxy trusts it yet",
            remedy="Run rotate_anchor, which takes over and makes a new issuer as well.",
        )
    secret = mesh.cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
    if mesh.config.issuer == "self-signed":
        require_writable(secret, mesh.config)
    is_chart_made = secret is not None and TlsSecret.of(secret).is_chart_made
    if is_chart_made:
        require_installed(snapshot.bundle, mesh.control_plane_chart, mesh.config)
    restarted = snapshot.data_plane.targets if expired or options.accept_downtime else ()
    asked = issuer_permissions(
        mesh.config, restarted, has_record=record is not None, is_chart_made=is_chart_made
    )
    require(lacking(mesh.cluster, asked))
    return snapshot


def rotate_issuer(
    mesh: Mesh,
    ring: KeyRing,
    claim: RotationClaim,
    options: RotationOptions,
    before: CertificateInfo | None,
    on_progress: OnProgress,
    probe: Probe | None = None,
) -> IssuerRotation:
    """Makes a new issuer and has identity load it.

    Restarts workloads only if the old issuer has expired or `accept_downtime` is on.

    Args:
        before: the issuer when the mesh was inspected. If it has been replaced since, by an earlier
            try of this step or by another run, no further one is made.
        probe: sends requests during the rotation; once identity signs with the new issuer, a
            generation starts whose certificates that issuer signed. If workloads are restarted,
            their own requests are watched too.

    Raises:
        InvalidInput: see `inspect_issuer`.
        NotReady: cert-manager did not issue it, or identity does not load it.
        RequestsFailed: more of the probe's requests failed than allowed.
        TrafficDropped: fewer of the workloads' own requests succeed since a batch of restarts.
    """
    probe = probe or Probe()
    snapshot = inspect_issuer(mesh, ring, options)
    # A killed run may have written the new issuer already.
    is_down = is_expired(snapshot, mesh.cluster.clock())
    expired = options.accept_downtime or is_down
    watch = TrafficWatch(
        mesh.cluster,
        max_drop=options.restarts.max_success_drop,
        seconds=options.restarts.traffic_seconds,
        # Stopping halfway does not help a mesh that is already down.
        stops=not is_down,
        census=probe.census,
    )
    namespace = mesh.config.namespaces.linkerd
    claim.check()
    if _fingerprint(snapshot.issuer) != _fingerprint(before):
        pass
    elif mesh.config.issuer == "cert-manager":
        _reissue(mesh, issuer_certificate(mesh), snapshot.issuer)
    else:
        pair = ring.require(snapshot.issuer_anchor or "")
        write_issuer(mesh, pair, snapshot.bundle.roots)
    since = ensure_loaded(mesh, options.load_seconds, on_progress)
    restarted = 0
    if expired:
        mesh.cluster.wait_until(since)
        restarted = _restart_all(mesh, options, since, on_progress, probe, watch)
    elif probe.asks:
        mesh.cluster.wait_until(since)
        probe.arrive("issuer")
        probe.leave("issuer")
    secret = mesh.cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
    if secret is None:
        raise NotReady(
            f"Secret/{namespace}/{ISSUER_SECRET}",
            expected="the new issuer",
            found="nothing",
            remedy="Run again.",
        )
    release = snapshot.bundle.release
    if TlsSecret.of(secret).is_chart_made and release is not None:
        # Last, because Helm waits for proxies that need a certificate.
        write_release(mesh, release, {}, on_progress)
    after = check_issuer_secret(secret, mesh.config, snapshot.bundle.roots, mesh.cluster.clock())
    probe.conclude("issuer")
    return IssuerRotation(before, after, since, restarted, probe.outcome, tuple(watch.rows))


def why_no_probe(before: CertificateInfo | None, now: datetime) -> str:
    """Why no probe runs while the issuer is rotated; empty if one does.

    Args:
        before: the current issuer.
    """
    is_over = before is not None and before.not_after <= now
    return "no pod gets a certificate: the issuer has expired" if is_over else ""


def _fingerprint(info: CertificateInfo | None) -> str:
    return info.fingerprint if info is not None else ""


def _reissue(mesh: Mesh, name: str, before: CertificateInfo | None) -> None:
    reissue(mesh, name)
    old = _fingerprint(before)
    for is_last in polls(mesh.config.timeout_seconds, every=0.3):
        await_reissued(mesh, mesh.config.timeout_seconds, name)
        secret = read_tls_secret(mesh.cluster, ISSUER_SECRET, mesh.config.namespaces.linkerd)
        if secret is not None:
            found = read_certificates(secret.certificate, ISSUER_SECRET)[0]
            if found.fingerprint != old:
                return
        if is_last:
            raise NotReady(
                f"Certificate/{mesh.config.namespaces.linkerd}/{name}",
                expected="cert-manager to issue a new issuer",
                found="the old one",
                remedy="Look at cert-manager's log.",
            )


def _restart_all(
    mesh: Mesh,
    options: RotationOptions,
    since: datetime,
    on_progress: OnProgress,
    probe: Probe,
    watch: TrafficWatch,
) -> int:
    """Recreates every proxy that started before identity could sign again."""
    namespace = mesh.config.namespaces.linkerd

    def judge(_: DataPlane) -> Needs:
        return lambda pod: pod.started is None or pod.started < since

    plane = read_data_plane(mesh.cluster, namespace)
    tolerated = frozenset(t.workload for t in plane.targets.values() if not t.is_complete)
    watch.phase = "issuer"
    done = restart_with_probe(
        probe,
        "issuer",
        mesh.cluster,
        lambda: read_data_plane(mesh.cluster, namespace),
        judge,
        options.restarts,
        timeout=mesh.config.timeout_seconds,
        on_progress=on_progress,
        tolerated=tolerated,
        watch=watch,
    )
    return len(done.workloads)
