"""What is on the cluster of a rotation, read once: the trust bundle, the issuer, every proxy."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mesh.cluster import Cluster, Object
from mesh.config import MeshConfig
from mesh.errors import CertificateError
from mesh.pki import CertificateInfo, fingerprints, read_certificates, signed_by
from mesh.restarts import DataPlane, read_data_plane
from mesh.rotation.issuer_renewal import identity_events
from mesh.rotation.leaves import IssuerLoad, issuer_load
from mesh.rotation.record import RotationRecord, read_record
from mesh.rotation.trust_bundle import TrustBundle, last_change, read_trust_bundle
from mesh.snapshot import Pod
from mesh.trust_anchor import ISSUER_SECRET, TlsSecret

TRUST_ROOT = "linkerd.io/trust-root-sha256"
"""The annotation in which charts from 2.12 on name the control plane's trust bundle."""


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
