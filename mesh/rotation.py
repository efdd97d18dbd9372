"""The rotation of a mesh's root of trust: its phases, and which one comes next.

The phases are data. Which one is next is a pure function of what is on the cluster, never of what
an earlier run wrote down, so that a run may die anywhere and any other may go on. To go back is
the same rotation with the old anchor as its goal: from every phase the way back has the same
phases in the same order, and does only those that are needed.

The order keeps one invariant: any two running proxies can verify each other. An anchor signs
nothing before every proxy trusts it (`spread` before `switch`), and is trusted until no proxy has a
certificate of it (`switch` before `drop`).
Source: https://linkerd.io/2/tasks/manually-rotating-control-plane-tls-credentials/
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from mesh.cluster import Cluster, Object
from mesh.config import MeshConfig
from mesh.errors import CertificateError, InvalidInput, MeshError
from mesh.issuer_renewal import identity_events
from mesh.leaves import IssuerLoad, issuer_load
from mesh.pki import (
    CertificateInfo,
    check_issuer,
    check_trust_anchor,
    fingerprints,
    read_certificates,
    signed_by,
)
from mesh.restarts import DataPlane, Needs, read_data_plane
from mesh.rotation_record import RotationRecord, read_record
from mesh.snapshot import Pod
from mesh.trust_anchor import ISSUER_SECRET, TlsSecret
from mesh.trust_bundle import TrustBundle, last_change, read_trust_bundle

TRUST_ROOT = "linkerd.io/trust-root-sha256"
"""The annotation in which charts from 2.12 on name the control plane's trust bundle."""

PhaseName = Literal["prepare", "bundle", "spread", "switch", "drop", "done"]


@dataclass(frozen=True)
class Phase:
    """One phase of a rotation, in words: for plans, approvals and the story."""

    name: PhaseName
    before: str
    does: str
    proof: str
    back: str


PHASES: tuple[Phase, ...] = (
    Phase(
        "prepare",
        before="The mesh is healthy, its issuer chains to its trust bundle, and its release is of "
        "the configured version.",
        does="Makes the new trust anchor, or takes the brought one, and keeps its key beside the "
        "old one's.",
        proof="The new anchor is fit for this mesh and another one than it has.",
        back="Nothing uses the new anchor: its key is removed.",
    ),
    Phase(
        "bundle",
        before="The new anchor's key is kept.",
        does="Adds the new anchor to the trust bundle, through the control plane's Helm release.",
        proof="ConfigMap linkerd-identity-trust-roots and the release's values hold both anchors.",
        back="The new anchor is taken out of the bundle again.",
    ),
    Phase(
        "spread",
        before="The trust bundle holds both anchors.",
        does="Restarts the control plane, the extensions and every meshed workload that does not "
        "trust the new anchor yet.",
        proof="No running proxy lacks the new anchor, pod by pod.",
        back="The new anchor is taken out of the bundle, and what trusts it is restarted.",
    ),
    Phase(
        "switch",
        before="Every running proxy trusts both anchors.",
        does="Signs a new issuer by the new anchor, waits until the identity service has loaded "
        "it, and restarts what still has a certificate of the old one.",
        proof="Every identity pod signs by the new anchor, and every proxy's certificate was "
        "issued since.",
        back="The old anchor signs a new issuer, and what has a certificate of the new one is "
        "restarted.",
    ),
    Phase(
        "drop",
        before="No running proxy has a certificate that needs the old anchor.",
        does="Takes the old anchor out of the trust bundle and restarts what still trusts it.",
        proof="The bundle and every running proxy hold the new anchor alone.",
        back="The old anchor is added again: the same phases with the old one as the goal.",
    ),
    Phase(
        "done",
        before="Every running proxy trusts the new anchor alone and has a certificate of it.",
        does="Forgets the old anchor's key and verifies the mesh.",
        proof="The issuer chains to the only anchor, and every workload is rolled out.",
        back="Rotate again, to another anchor: the old one's key is gone.",
    ),
)


@dataclass(frozen=True)
class RotationSnapshot:
    """What the next phase depends on, read once.

    `goal` is the fingerprint of the anchor that is to be the only one. `issuer_anchor` is that of
    the anchor that the issuer in the Secret chains to, None where that is unknown. `load` says
    since when identity signs with that issuer, `signing_since` since when it signs by the goal, by
    the record of a rotation. `issued` are the times of certificates where they are known, by pod.
    """

    goal: str
    bundle: TrustBundle
    data_plane: DataPlane
    issuer: CertificateInfo | None
    issuer_anchor: str | None
    load: IssuerLoad
    signing_since: datetime | None
    issued: Mapping[str, datetime] = field(default_factory=dict[str, datetime])

    @property
    def loaded_since(self) -> datetime | None:
        """From when on every identity pod signs by the goal; None while one may not."""
        if self.issuer_anchor != self.goal:
            return None
        return self.signing_since or self.load.since

    def trusted_by(self, pod: Pod) -> frozenset[str] | None:
        """The anchors that a proxy trusts, None where nobody can tell.

        The control plane's own proxies read the ConfigMap when they start. Where the chart wrote
        that, their template names the release's bundle, and so started after it was written.
        """
        if pod.proxy is not None and pod.proxy.trust_bundle:
            return _anchors(pod.proxy.trust_bundle)
        bundle = self.bundle
        if bundle.owner == "release" and pod.annotations.get(TRUST_ROOT) == bundle.declared_hash:
            return bundle.anchors
        since = bundle.settled
        if since is None or pod.started is None or pod.started < since:
            return None
        return bundle.anchors

    def trusts_goal(self, pod: Pod) -> bool:
        return self.goal in (self.trusted_by(pod) or ())

    def trusts_goal_alone(self, pod: Pod) -> bool:
        return self.trusted_by(pod) == frozenset({self.goal})

    def has_goals_leaf(self, pod: Pod) -> bool:
        """Whether a proxy's certificate is sure to chain to the goal."""
        since = self.loaded_since
        if since is None:
            return False
        started = pod.started is not None and pod.started >= since
        issued = self.issued.get(pod.uid)
        return started or (issued is not None and issued >= since)


@functools.lru_cache(256)
def _anchors(bundle: str) -> frozenset[str]:
    """The fingerprints of a bundle; thousands of pods have the same few."""
    try:
        return fingerprints(bundle, "trust bundle")
    except CertificateError:
        return frozenset[str]()


def next_phase(snapshot: RotationSnapshot) -> PhaseName:
    """The first phase whose proof does not hold."""
    pods = snapshot.data_plane.pods
    bundle, goal = snapshot.bundle, snapshot.goal
    if not bundle.holds(goal):
        return "bundle"
    if not all(map(snapshot.trusts_goal, pods)):
        return "spread"
    if snapshot.loaded_since is None or not all(map(snapshot.has_goals_leaf, pods)):
        return "switch"
    if not bundle.is_only(goal) or not all(map(snapshot.trusts_goal_alone, pods)):
        return "drop"
    return "done"


def needs_restart(snapshot: RotationSnapshot, phase: PhaseName) -> Needs:
    """Which pods a phase has to make anew."""
    proofs: dict[PhaseName, Callable[[Pod], bool]] = {
        "spread": snapshot.trusts_goal,
        "switch": snapshot.has_goals_leaf,
        "drop": snapshot.trusts_goal_alone,
    }
    holds = proofs[phase]
    return lambda pod: not holds(pod)


def is_expired(snapshot: RotationSnapshot, now: datetime) -> bool:
    """Whether the mesh's identity has ended already: no proxy can get a certificate any more."""
    if snapshot.issuer is not None and now >= snapshot.issuer.not_after:
        return True
    if snapshot.issuer_anchor is None or not snapshot.bundle.roots.strip():
        return False
    signing = [
        info
        for info in read_certificates(snapshot.bundle.roots, "trust bundle")
        if info.fingerprint == snapshot.issuer_anchor
    ]
    return any(now >= info.not_after for info in signing)


def recovery_phase(snapshot: RotationSnapshot) -> PhaseName:
    """The first phase of the recovery of an expired mesh whose proof does not hold.

    Nothing verifies anything any more, so the issuer comes first: identity does not start with one
    that has ended, and every proxy that starts needs it. Each workload is restarted once.
    """
    pods = snapshot.data_plane.pods
    if snapshot.issuer_anchor != snapshot.goal:
        return "switch"
    if not snapshot.bundle.is_only(snapshot.goal):
        return "bundle"
    if snapshot.loaded_since is None or not all(map(is_recovered(snapshot), pods)):
        return "spread"
    return "done"


def is_recovered(snapshot: RotationSnapshot) -> Callable[[Pod], bool]:
    return lambda pod: snapshot.trusts_goal_alone(pod) and snapshot.has_goals_leaf(pod)


# Reading


def read_rotation(
    cluster: Cluster, config: MeshConfig, goal: str, data_plane: DataPlane | None = None
) -> RotationSnapshot:
    """Reads what the next phase depends on; changes nothing.

    Args:
        goal: the fingerprint of the anchor that is to be the only one.
        data_plane: where it was read just now.
    """
    namespace = config.namespaces.linkerd
    bundle = read_trust_bundle(cluster, config)
    secret = cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
    record = read_record(cluster, namespace)
    data_plane = data_plane or read_data_plane(cluster, namespace)
    issuer, anchor = issuer_of(secret, bundle.roots, record)
    load = IssuerLoad(None)
    if secret is not None:
        events = identity_events(cluster, namespace)
        load = issuer_load(identity_pods(data_plane), last_change(secret), events)
    is_same = record is not None and record.goal == goal
    return RotationSnapshot(
        goal=goal,
        bundle=bundle,
        data_plane=data_plane,
        issuer=issuer,
        issuer_anchor=anchor,
        load=load,
        signing_since=record.since() if is_same and record is not None else None,
    )


def issuer_of(
    secret: Object | None, roots: str, record: RotationRecord | None
) -> tuple[CertificateInfo | None, str | None]:
    """The issuer in a Secret, and the fingerprint of the known anchor that it chains to."""
    if secret is None:
        return None, None
    chain = TlsSecret.of(secret).certificate
    known = roots + (record.anchors if record is not None else "")
    try:
        info = read_certificates(chain, ISSUER_SECRET)[0]
        signer = signed_by(chain, known, ISSUER_SECRET)
    except CertificateError:
        return None, None
    return info, signer.fingerprint if signer is not None else None


def identity_pods(data_plane: DataPlane) -> list[Pod]:
    """The running pods of the identity service; one that is deleting may still sign."""
    return [
        pod
        for pod in data_plane.pods
        if pod.namespace == data_plane.control_plane
        and pod.labels.get("linkerd.io/control-plane-component") == "identity"
    ]


# Judging


def check_new_anchor(
    certificate: str, config: MeshConfig, trusted: str, now: datetime
) -> CertificateInfo:
    """A new anchor that this mesh can be rotated to.

    Raises:
        InvalidInput: it is unfit (see `check_trust_anchor`), ends soon, or is trusted already.
    """
    info = check_trust_anchor(certificate, config.trust_domain, now, "new trust anchor")
    if trusted.strip() and info.fingerprint in fingerprints(trusted, "trust bundle"):
        raise InvalidInput(
            "new trust anchor",
            expected="another one than the mesh has",
            found=f"one that it trusts already, {info.fingerprint}",
            remedy="Bring a new one, or none, so that one is made.",
        )
    if info.not_after - now < timedelta(hours=config.lifetimes.issuer_hours):
        raise InvalidInput(
            "new trust anchor",
            expected="one that outlives an issuer",
            found=f"that it ends at {info.not_after:%Y-%m-%d %H:%M} UTC",
            remedy="Bring one that lives longer.",
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
    try:
        check_issuer(snapshot.issuer.pem, snapshot.bundle.roots, config.trust_domain, now, subject)
    except MeshError as error:
        # An intermediate between issuer and anchor is not part of what was kept of it.
        return [] if snapshot.issuer_anchor is not None else [str(error)]
    return []


def unproven(snapshot: RotationSnapshot, phase: PhaseName) -> Iterable[Pod]:
    """The pods for which a phase's proof does not hold."""
    return filter(needs_restart(snapshot, phase), snapshot.data_plane.pods)
