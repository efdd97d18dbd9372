"""What has to hold before a rotation begins, or goes back, or recovers."""

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
    """A new anchor that this mesh can be rotated to.

    Raises:
        InvalidInput: it is unfit (see `check_trust_anchor`), ends soon, or is trusted already.
    """
    info = check_trust_anchor(
        certificate, config.trust_domain, now, "new trust anchor", version=config.linkerd
    )
    if trusted.strip() and info.fingerprint in fingerprints(trusted, "trust bundle"):
        raise InvalidInput(
            "new trust anchor",
            expected="another anchor than the mesh's",
            found=f"one that it trusts already, {info.fingerprint}",
            remedy="Provide a new one, or none to have one created.",
        )
    if info.not_after - now < timedelta(hours=config.lifetimes.issuer_hours):
        raise InvalidInput(
            "new trust anchor",
            expected="one that outlives an issuer",
            found=f"that it expires at {info.not_after:%Y-%m-%d %H:%M} UTC",
            remedy="Provide one that lives longer.",
        )
    return info


def troubles(snapshot: RotationSnapshot, config: MeshConfig, now: datetime) -> list[str]:
    """Why a mesh is not well enough for a rotation to begin."""
    found = [
        f"{target.subject}: it is not rolled out"
        for target in snapshot.data_plane.targets.values()
        if not target.is_complete
    ]
    found += [
        f"{pod.subject}: it is not ready"
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
        return [f"{subject}: no issuer that can be read"]
    # A Certificate's anchor may be out of the bundle, which a rotation puts right.
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
        # An intermediate between issuer and anchor is not part of what was kept of it.
        return [] if snapshot.issuer_anchor is not None else [str(error)]
    return []


def renewed_there(anchor: CertificateAnchor) -> str:
    """What to do once an anchor that cert-manager keeps, or the issuer, has expired."""
    return (
        f"Fix cert-manager and let it renew {anchor.anchor.subject}, then {anchor.issuer.subject} "
        "(cmctl renew); then restart every meshed workload."
    )


def require_quick(options: RotationOptions, snapshot: RotationSnapshot) -> None:
    """Raises where a gentle pace is asked for and cert-manager makes the anchor.

    A shorter lifetime restarts identity, which has to wait until every proxy trusts the new anchor.
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
    """Raises unless an anchor that a Certificate owns can be rotated so; nothing where none does.

    Args:
        takes: how long it takes until every proxy trusts a new anchor.
        expired: whether the issuer or the anchor that signed it has expired.

    Raises:
        OwnershipConflict, InvalidInput: with what the layout lacks.
    """
    anchor = snapshot.anchor
    if anchor is None:
        return
    _ = anchor.copy
    owner, issuer = anchor.anchor, anchor.issuer
    if new.is_brought:
        raise InvalidInput(
            "new trust anchor",
            expected=f"none, as cert-manager makes the anchor of {owner.subject}",
            found="one that is provided",
            remedy="Provide none, or replace that Certificate by a Secret of your own first.",
        )
    if action == "recover" or (expired and action == "rotate"):
        # Without recover as well: `refuse` would advise recover, which this layout does not have.
        raise InvalidInput(
            owner.subject,
            expected="no recovery, as cert-manager renews this anchor and the issuer"
            if action == "recover"
            else "an issuer and an anchor that are valid, to rotate without downtime",
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
            found="it in none of them, so that it cannot be trusted again",
            remedy=f"Put its certificate into {anchor.copy.key} of this Secret, then run again.",
        )
    if snapshot.goal or not snapshot.is_settled_on_current:
        # The new anchor is there: what has begun has to end.
        return
    if issuer.every is not None and issuer.every < takes:
        raise InvalidInput(
            issuer.subject,
            expected=f"{hours(takes)} between two renewals, in which every proxy comes to trust "
            "the new anchor",
            found=f"{hours(issuer.every)}: cert-manager would sign with the new anchor before",
            remedy="Make restarts.batch_size larger, ask for approval before renew rather than "
            "bundle or spread, or raise the Certificate's duration.",
        )
    # Two more rounds follow, and a third anchor has no place in the bundle.
    if owner.every is not None and owner.every < 3 * takes:
        raise InvalidInput(
            owner.subject,
            expected=f"{hours(3 * takes)} between two renewals, for the whole rotation",
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
    """Raises unless an issuer of the old anchor is there, or can be signed."""
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
        remedy="There is no way back: run rotate_anchor again, which continues to the new anchor.",
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
            found="that the issuer or its trust anchor has expired",
            remedy="Run it again with recover and accept_downtime.",
        )
    # What has begun is finished, be the mesh as it may: each batch is gated by itself.
    if found and action == "rotate" and not is_open and not options.allow_unhealthy:
        raise NotReady(
            subject,
            expected="a healthy mesh before its anchor is rotated",
            found=" | ".join(found[:20]),
            remedy="Fix the problems named, or turn allow_unhealthy on.",
        )
