"""What has to hold before a rotation starts, rolls back or recovers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, MeshError, NotReady
from prefect_linkerd.mesh.identity.certificate_anchor import CertificateAnchor
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, read_tls_secret
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    CertificateInfo,
    check_issuer,
    check_trust_anchor,
    fingerprints,
)
from prefect_linkerd.mesh.records.rotation import chains_to, read_record
from prefect_linkerd.mesh.rotation.issuer_renewal import PREVIOUS_ISSUER
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.options import Action, NewAnchor, RotationOptions
from prefect_linkerd.mesh.rotation.snapshot import RotationSnapshot, identity_pods


def check_new_anchor(
    certificate: str, config: MeshConfig, trusted: str, now: datetime
) -> CertificateInfo:
    """Checks that this mesh can be rotated to a new anchor, and describes the anchor.

    Raises:
        InvalidInput: it is unfit (see `check_trust_anchor`), expires soon, or is trusted already.
    """
    info = check_trust_anchor(
        certificate, config.trust_domain, now, "new trust anchor", version=config.linkerd
    )
    if trusted.strip() and info.fingerprint in fingerprints(trusted, "trust bundle"):
        raise InvalidInput(
            "new trust anchor",
            expected="an anchor that the mesh does not trust yet",
            found=f"one that it trusts already, {info.fingerprint}",
            remedy="Provide a new one, or none to have one created.",
        )
    if info.not_after - now < timedelta(hours=config.lifetimes.issuer_hours):
        raise InvalidInput(
            "new trust anchor",
            expected="one that outlives an issuer",
            found=f"one that expires at {info.not_after:%Y-%m-%d %H:%M} UTC",
            remedy="Provide one that lives longer.",
        )
    return info


def troubles(snapshot: RotationSnapshot, config: MeshConfig, now: datetime) -> list[str]:
    """Why a mesh is not healthy enough to start a rotation."""
    found = [
        f"{target.subject}: not rolled out"
        for target in snapshot.data_plane.targets.values()
        if not target.is_complete
    ]
    found += [
        f"{pod.subject}: not ready"
        for pod in snapshot.data_plane.pods
        if not pod.is_ready and not pod.is_deleting
    ]
    release = snapshot.bundle.release
    if release is not None and release.status != "deployed":
        found.append(
            f"Helm release {release.namespace}/{release.name}: its status is {release.status}"
        )
    if not identity_pods(snapshot.data_plane):
        found.append(f"Deployment/{config.namespaces.linkerd}/linkerd-identity: it has no pod")
    return found + _chain_trouble(snapshot, config, now)


def _chain_trouble(snapshot: RotationSnapshot, config: MeshConfig, now: datetime) -> list[str]:
    subject = f"Secret/{config.namespaces.linkerd}/{ISSUER_SECRET}"
    if snapshot.issuer is None:
        return [f"{subject}: no readable issuer"]
    # An anchor kept by a Certificate may be missing from the bundle; a rotation fixes that.
    anchors = snapshot.pool or snapshot.bundle.roots
    try:
        check_issuer(
            snapshot.issuer.pem,
            anchors,
            config.trust_domain,
            now,
            subject,
            version=config.linkerd,
        )
    except MeshError as error:
        # Only the issuer's own certificate is kept, so an intermediate fails the check.
        return [] if snapshot.issuer_anchor is not None else [str(error)]
    return []


def renewed_there(anchor: CertificateAnchor) -> str:
    """What to do once an anchor that cert-manager manages, or the issuer, has expired."""
    return (
        f"Fix cert-manager and let it renew {anchor.anchor.subject}, then {anchor.issuer.subject} "
        "(cmctl renew); then restart every meshed workload."
    )


def require_quick(options: RotationOptions, snapshot: RotationSnapshot) -> None:
    """Raises if the gentle pace is requested and cert-manager makes the anchor.

    A shorter lifetime restarts identity, which must not restart until every proxy trusts the new
    anchor.
    """
    if options.pace == "gentle" and snapshot.anchor is not None:
        raise InvalidInput(
            "pace",
            expected=f"quick, as cert-manager makes the anchor of {snapshot.anchor.anchor.subject}",
            found="gentle",
            remedy="Set pace to quick or auto.",
        )


def require_certificate_layout(
    snapshot: RotationSnapshot,
    new: NewAnchor,
    action: Action,
    takes: timedelta,
    *,
    expired: bool,
) -> None:
    """Raises unless an anchor that a Certificate owns can be rotated; returns if none owns it.

    Args:
        takes: how long it takes until every proxy trusts a new anchor.
        expired: whether the issuer or the anchor that signed it has expired.

    Raises:
        OwnershipConflict, InvalidInput, NotReady: with what the layout lacks.
    """
    anchor = snapshot.anchor
    if anchor is None:
        return
    _ = anchor.copy
    owner, issuer = anchor.anchor, anchor.issuer
    if new.is_provided:
        raise InvalidInput(
            "new trust anchor",
            expected=f"none, as cert-manager makes the anchor of {owner.subject}",
            found="a provided one",
            remedy="Provide none, or replace that Certificate by a Secret of your own first.",
        )
    if action == "recover" or (expired and action == "rotate"):
        # Also without recover: `refuse` would advise recover, which this layout does not support.
        raise InvalidInput(
            owner.subject,
            expected="no recovery, as cert-manager renews this anchor and the issuer"
            if action == "recover"
            else "a valid issuer and anchor, to rotate without downtime",
            found="that one has expired" if expired else "that they are valid",
            remedy=renewed_there(anchor)
            if expired
            else "Run rotate_anchor without recover: it needs no downtime.",
        )
    if snapshot.issuer_anchor is None:
        raise NotReady(
            anchor.copy.subject,
            expected="the anchor that signed the issuer in a proxy's trust bundle, in the issuer's "
            "ca.crt, in the release's values or in this Secret",
            found="it in none of them, so it cannot be added to the trust bundle again",
            remedy=f"Put its certificate into {anchor.copy.key} of this Secret, then run again.",
        )
    if snapshot.goal or not snapshot.is_settled_on_current:
        # The new anchor exists, so the rotation has to be finished.
        return
    if issuer.every is not None and issuer.every < takes:
        raise InvalidInput(
            issuer.subject,
            expected=f"{hours(takes)} or more between two renewals, for every proxy to come to "
            "trust the new anchor",
            found=f"{hours(issuer.every)}: cert-manager would sign with the new anchor before that",
            remedy="Make restarts.batch_size larger, ask for approval before renew rather than "
            "bundle or spread, or raise the Certificate's duration.",
        )
    # Two more rounds of restarts follow, and the bundle has no room for a third anchor.
    if owner.every is not None and owner.every < 3 * takes:
        raise InvalidInput(
            owner.subject,
            expected=f"{hours(3 * takes)} or more between two renewals, for the whole rotation",
            found=hours(owner.every),
            remedy="Raise its duration, or make restarts.batch_size larger.",
        )


def hours(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:.1f} h"


def nothing_to_abort() -> InvalidInput:
    return InvalidInput(
        "abort",
        expected="a rotation in progress",
        found="none",
        remedy="Leave the mesh as it is, or run rotate_anchor to begin a rotation.",
    )


def nothing_to_drop(found: str = "no rotation") -> InvalidInput:
    return InvalidInput(
        "drop",
        expected="a finished gentle rotation, with proxies that still trust the old anchor",
        found=found,
        remedy="Leave the mesh as it is, or run rotate_anchor to begin a rotation.",
    )


def require_way_back(mesh: Mesh, ring: KeyRing, goal: str) -> None:
    """Raises unless an issuer under the old anchor exists or can be signed."""
    if ring.find(goal) is not None:
        return
    if mesh.config.issuer == "self-signed":
        for name in (ISSUER_SECRET, PREVIOUS_ISSUER):
            secret = read_tls_secret(mesh.cluster, name, mesh.config.namespaces.linkerd)
            record = read_record(mesh.cluster, mesh.config.namespaces.linkerd)
            if secret and record and chains_to(secret.certificate, record, goal):
                return
    raise InvalidInput(
        "abort",
        expected=f"the old anchor's private key in {ring.current.where} or beside it, or an issuer "
        "that it signed",
        found="neither",
        remedy="Run rotate_anchor again, which continues to the new anchor: rolling back is "
        "impossible.",
    )


def refuse(
    config: MeshConfig,
    options: RotationOptions,
    action: Action,
    found: Sequence[str],
    *,
    expired: bool,
    unsigned: bool,
    is_open: bool,
) -> None:
    """Raises unless the mesh can take this action now.

    Args:
        unsigned: whether no anchor that the mesh trusts signed its issuer.
    """
    subject = f"mesh {config.name}"
    if action == "recover":
        if not expired and not unsigned and not is_open:
            raise InvalidInput(
                subject,
                expected="certificates that have expired or do not chain, to recover from",
                found="that they are valid",
                remedy="Use rotate_anchor or rotate_issuer without recover: they need no downtime.",
            )
        if not options.accept_downtime:
            raise InvalidInput(
                subject,
                expected="accept_downtime, because meshed workloads cannot reach each other until "
                "they have all been restarted",
                found="that it is off",
                remedy="Turn accept_downtime on.",
            )
        return
    if expired and action == "rotate":
        raise InvalidInput(
            subject,
            expected="a valid issuer and trust anchor, to rotate without downtime",
            found="that the issuer or its trust anchor has expired",
            remedy="Run it again with recover and accept_downtime.",
        )
    # An open rotation is finished even on an unhealthy mesh: each batch has its own health gate.
    if found and action == "rotate" and not is_open and not options.allow_unhealthy:
        raise NotReady(
            subject,
            expected="a healthy mesh before its anchor is rotated",
            found=" | ".join(found[:20]),
            remedy="Fix the problems named, or turn allow_unhealthy on.",
        )
