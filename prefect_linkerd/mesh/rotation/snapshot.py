"""The state of a cluster for a rotation, read once: the trust bundle, the issuer, every proxy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from prefect_linkerd.mesh.errors import CertificateError
from prefect_linkerd.mesh.identity.certificate_anchor import (
    CertificateAnchor,
    anchors_in,
    join_readable,
    lacks,
    read_certificate_anchor,
)
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TlsSecret
from prefect_linkerd.mesh.kubernetes.client import Object, last_change
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import CertificateInfo, read_certificates, signed_by
from prefect_linkerd.mesh.records.rotation import RotationRecord, read_record
from prefect_linkerd.mesh.restarts import DataPlane, read_data_plane
from prefect_linkerd.mesh.rotation.issuer_renewal import identity_events
from prefect_linkerd.mesh.rotation.leaves import IssuerLoad, issuer_load
from prefect_linkerd.mesh.rotation.trust_bundle import TrustBundle, read_trust_bundle
from prefect_linkerd.mesh.snapshot.mesh import Pod

TRUST_ROOT = "linkerd.io/trust-root-sha256"
"""The annotation with the hash of the control plane's trust bundle, set by charts since 2.12."""


@dataclass(frozen=True)
class RotationSnapshot:
    """What the next phase depends on, read once.

    `goal` is the fingerprint of the anchor that the rotation leaves as the only one.
    `issuer_anchor` is that of the anchor that the issuer in the Secret chains to, None if unknown.
    `load` says since when identity signs with that issuer; `signing_since`, from the rotation's
    record, since when it signs under the goal. `issued` has the known issue times of certificates,
    by pod UID.

    `anchor` is set if a Certificate owns the anchor; then `goal` is empty until cert-manager has
    made the new one. `origin` is the old anchor, `participants` are all anchors in the rotation's
    record, and `pool` is the PEM of every anchor found anywhere.

    `is_gentle` and `is_shortened` come from the record of an open rotation.
    """

    goal: str
    bundle: TrustBundle
    data_plane: DataPlane
    issuer: CertificateInfo | None
    issuer_anchor: str | None
    load: IssuerLoad
    signing_since: datetime | None
    issued: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    anchor: CertificateAnchor | None = None
    origin: str = ""
    participants: frozenset[str] = frozenset()
    pool: str = ""
    is_gentle: bool = False
    is_shortened: bool = False

    @property
    def is_chained(self) -> bool:
        """Whether an anchor that the mesh trusts signed its issuer.

        The anchors in an earlier rotation's record are known, but may no longer be trusted.
        """
        if self.anchor is not None:
            # An anchor kept by a Certificate may be missing from the bundle; a rotation fixes that.
            return self.issuer_anchor is not None
        return self.issuer_anchor in self.bundle.anchors

    @property
    def loaded_since(self) -> datetime | None:
        """The time since which every identity pod signs under the goal; None while one may not."""
        if self.issuer_anchor != self.goal:
            return None
        return self.signing_since or self.load.since

    def trusted_by(self, pod: Pod) -> frozenset[str] | None:
        """The anchors that a proxy trusts; None if unknown.

        The control plane's own proxies read the ConfigMap when they start. If the chart wrote it,
        a pod whose annotation has the hash of the release's bundle started after that was written.
        """
        if pod.proxy is not None and pod.proxy.trust_bundle:
            return anchors_in(pod.proxy.trust_bundle)
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
        return self.trusted_by(pod) == self.bundle.fixed | {self.goal}

    def lacks_current(self, pod: Pod) -> bool:
        """Whether a proxy is sure not to trust the anchor that a Certificate's Secret has now."""
        if self.anchor is None or pod.proxy is None:
            return False
        return lacks(self.anchor.current, pod.proxy.trust_bundle, pod.started)

    @property
    def trusts_current(self) -> bool:
        """Whether cert-manager may safely sign with the Certificate's current anchor."""
        if self.anchor is None:
            return True
        is_in_bundle = self.anchor.current.fingerprint in self.bundle.anchors
        return is_in_bundle and not any(map(self.lacks_current, self.data_plane.pods))

    @property
    def is_settled_on_current(self) -> bool:
        """Whether the mesh uses the Certificate's current anchor, so there is nothing to take over.

        Otherwise cert-manager's schedule or a manual renewal has started a rotation.
        """
        if self.anchor is None:
            return False
        current = self.anchor.current.fingerprint
        is_alone = self.bundle.anchors == self.bundle.fixed | {current}
        return is_alone and self.issuer_anchor == current and self.trusts_current

    def has_goals_leaf(self, pod: Pod) -> bool:
        """Whether a proxy's certificate is sure to chain to the goal."""
        since = self.loaded_since
        if since is None:
            return False
        started = pod.started is not None and pod.started >= since
        issued = self.issued.get(pod.uid)
        return started or (issued is not None and issued >= since)


def resolve_goal(goal: str, origin: str, current: str) -> str:
    """The goal of a rotation if a Certificate owns the anchor.

    The goal is always the anchor that cert-manager signs with, because only cert-manager chooses
    it: also for an abort once it has made the new anchor, and if it renews the anchor again
    meanwhile. Empty until it has made a new anchor.
    """
    if current == origin:
        return origin if goal == origin else ""
    return current


def read_rotation(mesh: Mesh, goal: str, data_plane: DataPlane | None = None) -> RotationSnapshot:
    """Reads what the next phase depends on; changes nothing.

    Args:
        goal: the fingerprint of the anchor that the rotation leaves as the only one.
        data_plane: the data plane, if it has just been read.
    """
    namespace = mesh.config.namespaces.linkerd
    bundle = read_trust_bundle(mesh)
    secret = mesh.cluster.get("v1", "Secret", ISSUER_SECRET, namespace)
    record = read_record(mesh.cluster, namespace)
    data_plane = data_plane or read_data_plane(mesh.cluster, namespace)
    layout = read_certificate_anchor(mesh) if mesh.config.issuer == "cert-manager" else None
    pool = ""
    if layout is not None:
        bundles = {pod.proxy.trust_bundle for pod in data_plane.pods if pod.proxy is not None}
        noted = record.anchors if record is not None and record.is_open else ""
        texts = [layout.current.pem, layout.known, bundle.roots, noted, bundle.declared]
        pool = join_readable([*texts, *sorted(bundles)])
        bundle = replace(bundle, owner="certificate", fixed=_fixed(layout, bundle, noted))
        if record is not None and record.is_open:
            # While cert-manager is issuing, a new anchor will come even during an abort.
            wanted = "" if layout.anchor.is_issuing else goal
            goal = resolve_goal(wanted, record.origin, layout.current.fingerprint)
    issuer, anchor = issuer_of(secret, bundle.roots, record, pool)
    load = IssuerLoad(None)
    if secret is not None:
        events = identity_events(mesh.cluster, namespace)
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
        anchor=layout,
        origin=record.origin if record is not None and record.is_open else "",
        participants=anchors_in(record.anchors)
        if record is not None and record.is_open
        else frozenset(),
        pool=pool,
        is_gentle=record is not None and record.is_open and record.is_gentle,
        is_shortened=record is not None and record.is_open and record.is_shortened,
    )


def _fixed(layout: CertificateAnchor, bundle: TrustBundle, noted: str) -> frozenset[str]:
    """The anchors that no rotation removes: those in the bundle from neither of the two Secrets."""
    of_secrets = {layout.current.fingerprint} | anchors_in(noted)
    if layout.previous is not None:
        of_secrets |= layout.previous.anchors
    others = bundle.anchors - of_secrets if layout.has_others else frozenset[str]()
    return layout.fixed | others


def issuer_of(
    secret: Object | None, roots: str, record: RotationRecord | None, pool: str = ""
) -> tuple[CertificateInfo | None, str | None]:
    """The issuer in a Secret, and the fingerprint of the known anchor that it chains to."""
    if secret is None:
        return None, None
    chain = TlsSecret.of(secret).certificate
    known = roots + (record.anchors if record is not None else "") + pool
    try:
        info = read_certificates(chain, ISSUER_SECRET)[0]
        signer = signed_by(chain, known, ISSUER_SECRET)
    except CertificateError:
        return None, None
    return info, signer.fingerprint if signer is not None else None


def anchors_to_keep(snapshot: RotationSnapshot) -> list[CertificateInfo]:
    """The anchors other than a Certificate's current one that proxies may have certificates from.

    They are the issuer's, the trusted ones, and those of proxies that do not trust the current one
    and so have no certificate under it.
    """
    if snapshot.anchor is None:
        return []
    wanted = set(snapshot.bundle.anchors - snapshot.bundle.fixed)
    wanted |= {snapshot.issuer_anchor or ""}
    for pod in filter(snapshot.lacks_current, snapshot.data_plane.pods):
        if pod.proxy is not None:
            wanted |= anchors_in(pod.proxy.trust_bundle)
    wanted -= {snapshot.anchor.current.fingerprint}
    pool = read_certificates(snapshot.pool, "trust anchors")
    return [info for info in pool if info.fingerprint in wanted]


def identity_pods(data_plane: DataPlane) -> list[Pod]:
    """The running pods of the identity service; one that is being deleted may still sign."""
    return [
        pod
        for pod in data_plane.pods
        if pod.namespace == data_plane.control_plane
        and pod.labels.get("linkerd.io/control-plane-component") == "identity"
    ]
