"""The trust bundle of a mesh: where it is kept, when it last changed, and changing it.

Proxies and the identity service read ConfigMap `linkerd-identity-trust-roots`. Its owner writes it:
the control plane's Helm release (value `identityTrustAnchorsPEM`) or, with `identity.externalCA`,
something else, such as trust-manager's Bundle. The value is kept equal to the ConfigMap, so the
release stays the source of truth and `bootstrap` finds nothing to do. The exception: if a
Certificate owns the anchor, a value that was never set stays unset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, cast

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, MeshError, NotReady
from prefect_linkerd.mesh.helm.cert_manager import CERT_MANAGER, certificate_for
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.client import DesiredRelease
from prefect_linkerd.mesh.helm.installed import read_mesh_releases
from prefect_linkerd.mesh.helm.ownership import Owner as ReleaseOwner
from prefect_linkerd.mesh.helm.ownership import owner_of, refuse_theirs
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.helm.values import Values, merge
from prefect_linkerd.mesh.identity.certificate_anchor import TRUST_MANAGER
from prefect_linkerd.mesh.identity.issuer import with_kept
from prefect_linkerd.mesh.identity.trust_anchor import (
    ANCHOR_SECRET,
    BUNDLE,
    TRUST_ROOTS,
    bundle_of,
    read_roots,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object, last_change, name_of
from prefect_linkerd.mesh.kubernetes.rollout import OnProgress
from prefect_linkerd.mesh.kubernetes.waiting import polls
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import fingerprints, join_bundle, read_certificates
from prefect_linkerd.mesh.rotation.leaves import MARGIN

VALUE = "identityTrustAnchorsPEM"

Change = Callable[[Values], Values]

Owner = Literal["release", "config-map", "trust-manager", "certificate"]
"""What determines the bundle's content. The last two use trust-manager's Bundle; for `certificate`,
the Secrets among its sources determine it (see `identity.certificate_anchor`)."""


@dataclass(frozen=True)
class TrustBundle:
    """The current trust bundle of a cluster.

    `roots` is the ConfigMap's PEM and `changed` when it was last written, by the API server's
    clock; `release` is the control plane's, and `declared` the PEM in its values. `driver` is the
    owner of that release, or of a control plane without one. `fixed` are anchors that no rotation
    adds or removes.
    """

    roots: str
    changed: datetime | None
    owner: Owner
    release: Release | None = field(repr=False)
    declared: str
    driver: ReleaseOwner | None = None
    fixed: frozenset[str] = frozenset()

    @property
    def anchors(self) -> frozenset[str]:
        """The fingerprints of the ConfigMap's anchors."""
        return _fingerprints(self.roots, f"ConfigMap {TRUST_ROOTS}")

    @property
    def declared_anchors(self) -> frozenset[str]:
        """The fingerprints of the anchors in the release's values."""
        return _fingerprints(self.declared, VALUE)

    @property
    def is_settled(self) -> bool:
        """Whether the release is deployed and declares the ConfigMap's anchors."""
        is_deployed = self.release is not None and self.release.status == "deployed"
        return is_deployed and self.anchors == self.declared_anchors

    @property
    def settled(self) -> datetime | None:
        """Any pod started after this instant has read the current bundle, even with clock skew."""
        return self.changed + MARGIN if self.changed is not None else None

    @property
    def declared_hash(self) -> str:
        """The hash of the declared bundle, which the chart sets in its pods' annotations."""
        return hashlib.sha256(self.declared.encode()).hexdigest()

    @property
    def follows(self) -> bool:
        """Whether the release has to declare the ConfigMap's anchors."""
        return self.owner != "certificate" or bool(self.declared.strip())

    def is_only(self, fingerprint: str) -> bool:
        """Whether ConfigMap and release have only this anchor and the fixed ones."""
        is_settled = self.is_settled or not self.follows
        return is_settled and self.anchors == self.fixed | {fingerprint}

    def holds(self, fingerprint: str) -> bool:
        # With a Certificate's anchor the release is updated last, as an upgrade restarts identity.
        is_declared = self.owner == "certificate" or fingerprint in self.declared_anchors
        return fingerprint in self.anchors and is_declared


def _fingerprints(pem: str, subject: str) -> frozenset[str]:
    return fingerprints(pem, subject) if pem.strip() else frozenset()


def with_anchor(bundle: str, anchor: str) -> str:
    """The bundle with one more anchor, in the order that bootstrap uses."""
    return join_bundle([*([bundle] if bundle.strip() else []), anchor])


def only(bundle: str, fingerprint: str) -> str:
    """The bundle reduced to one of its anchors."""
    infos = read_certificates(bundle, "trust bundle")
    return join_bundle([info.pem for info in infos if info.fingerprint == fingerprint])


def read_trust_bundle(mesh: Mesh) -> TrustBundle:
    """Reads the trust bundle and the release that declares it; changes nothing."""
    namespace = mesh.config.namespaces.linkerd
    roots = read_roots(mesh)
    part = release_facts(mesh.config.linkerd).control_plane_chart
    found = read_mesh_releases(
        mesh.cluster, mesh.config, parts=[part], namespaces={namespace}, values=True
    )
    release = found.control_plane
    values = release.values if release is not None and release.values else {}
    return TrustBundle(
        roots=bundle_of(roots),
        changed=last_change(roots) if roots is not None else None,
        owner=_owner(roots, values),
        release=release,
        declared=str(values.get(VALUE) or ""),
        driver=found.driver,
    )


def _owner(roots: Object | None, values: Mapping[str, Any]) -> Owner:
    identity: object = values.get("identity")
    is_external = isinstance(identity, dict) and bool(
        cast("dict[str, Any]", identity).get("externalCA")
    )
    if not is_external:
        return "release"
    metadata: dict[str, Any] = (roots or {}).get("metadata", {})
    owners: list[dict[str, Any]] = metadata.get("ownerReferences") or []
    is_bundle = any(
        owner["kind"] == "Bundle" and str(owner["apiVersion"]).startswith("trust.cert-manager.io/")
        for owner in owners
    )
    return "trust-manager" if is_bundle else "config-map"


def write_trust_bundle(
    mesh: Mesh, wanted: str, on_progress: OnProgress | None = None, change: Change = dict
) -> None:
    """Sets the trust bundle to the wanted anchors, wherever it is kept; a no-op if it has them.

    Args:
        wanted: the PEM of every anchor.
        change: a function of the release's values that makes further changes to them.

    Raises:
        ReleaseError: the release could not be upgraded.
        NotReady: the ConfigMap's owner did not write it.
    """
    bundle = read_trust_bundle(mesh)
    if bundle.owner == "config-map":
        if bundle.anchors != fingerprints(wanted, "trust bundle"):
            patch = {"data": {BUNDLE: wanted}}
            mesh.cluster.merge(
                "v1", "ConfigMap", TRUST_ROOTS, mesh.config.namespaces.linkerd, patch
            )
    elif bundle.owner == "trust-manager":
        _write_bundle(mesh.cluster, wanted)
    release = bundle.release
    if release is None:
        raise _no_release(mesh.config, bundle.driver)
    write_release(mesh, release, {VALUE: wanted}, on_progress, change)
    await_roots(mesh, fingerprints(wanted, "trust bundle"))


def write_release(
    mesh: Mesh,
    release: Release,
    changed: Values,
    on_progress: OnProgress | None = None,
    change: Change = dict,
) -> None:
    """Changes some values of the control plane's release; a no-op if it has them.

    Values for an issuer that the chart makes are set to the issuer in the cluster.

    Raises:
        ReleaseError: the release could not be upgraded.
    """
    values = merge(change(release.values or {}), changed)
    values = with_kept(mesh, mesh.control_plane_chart, values)
    mesh.helm.reconcile(
        DesiredRelease(
            release.name,
            release.namespace,
            mesh.control_plane_chart,
            values,
            mesh.config.timeout_seconds,
        ),
        on_progress,
    )


def declare(mesh: Mesh, on_progress: OnProgress | None = None) -> None:
    """Updates the release's value to the bundle, if a Certificate owns the anchor.

    Raises:
        ReleaseError: the release could not be upgraded.
    """
    bundle = read_trust_bundle(mesh)
    release = bundle.release
    if release is None or not bundle.declared.strip() or bundle.anchors == bundle.declared_anchors:
        return
    write_release(mesh, release, {VALUE: bundle.roots}, on_progress)


def _no_release(config: MeshConfig, driver: ReleaseOwner | None) -> MeshError:
    namespace = config.namespaces.linkerd
    if driver is None:
        return NotReady(
            f"Helm release of {release_facts(config.linkerd).control_plane_chart} in {namespace}",
            expected="the control plane's release",
            found="none, and no control plane",
            remedy="Set namespaces.linkerd to where it is, or install the mesh with bootstrap.",
        )
    return NotReady(
        f"Helm release of {release_facts(config.linkerd).control_plane_chart} in {namespace}",
        expected="the control plane's release",
        found=f"no readable one: the control plane belongs to {driver}",
        remedy="Change it there: these flows change only meshes that Helm installed.",
    )


def require_installed(bundle: TrustBundle, chart: Chart, config: MeshConfig) -> None:
    """Checks that the control plane's release may be written without a change of version.

    Raises:
        OwnershipConflict: something else manages it, such as a GitOps controller.
        NotReady: there is none, or its chart has another version.
    """
    release = bundle.release
    if release is None:
        raise _no_release(config, bundle.driver)
    if bundle.driver is not None and bundle.driver.reconciles:
        raise refuse_theirs(
            f"Helm release {release.ref}",
            bundle.driver,
            "Change it there: it would undo what these flows write.",
        )
    if release.chart_version != chart.version:
        raise NotReady(
            f"Helm release {release.namespace}/{release.name}",
            expected=f"chart {chart.name} {chart.version}, for {config.linkerd}",
            found=f"{release.chart} {release.chart_version}",
            remedy="Set the mesh's version to what is installed, or run upgrade first.",
        )


def require_writable_bundle(mesh: Mesh, bundle: TrustBundle) -> None:
    """Checks that nothing else would revert what these flows write to the trust bundle.

    Raises:
        OwnershipConflict: the ConfigMap, or trust-manager's Bundle, belongs to something else.
    """
    found = None
    if bundle.owner == "config-map":
        found = read_roots(mesh)
    elif bundle.owner == "trust-manager":
        found = mesh.cluster.get(TRUST_MANAGER, "Bundle", TRUST_ROOTS)
    if found is not None:
        text = "Make it leave the content alone: a rotation writes the anchors there."
        _require_undriven(found, text, is_copy=owner_of(found).may_be_copied)


def require_writable_key(mesh: Mesh) -> None:
    """Checks the same for the trust anchor's Secret, if the key is kept in the cluster.

    Raises:
        OwnershipConflict: something else would revert it.
    """
    if mesh.config.trust_anchor.custody == "in-cluster":
        found = mesh.cluster.get("v1", "Secret", ANCHOR_SECRET, mesh.config.anchor_namespace)
        text = (
            "Make it leave the content alone: a rotation writes the new anchor and its key there."
        )
        if found is not None:
            _require_undriven(found, text, is_copy=_is_copied_secret(mesh.cluster, found))


def _is_copied_secret(cluster: Cluster, secret: Object) -> bool:
    """Whether a Secret names a Certificate only because it was copied from that one's Secret."""
    if (owner := owner_of(secret)).by != "cert-manager":
        return owner.by == "trust-manager"
    try:
        certificates = cluster.list(CERT_MANAGER, "Certificate", secret["metadata"]["namespace"])
        return certificate_for(certificates, secret["metadata"]["name"]) is None
    except ApiError as error:
        # Without permission to list Certificates, assume that one owns it.
        return error.status == 404


def _require_undriven(found: Object, remedy: str, *, is_copy: bool) -> None:
    owner = owner_of(found)
    if owner.reconciles and not is_copy:
        raise refuse_theirs(name_of(found), owner, remedy)


def _write_bundle(cluster: Cluster, wanted: str) -> None:
    """Writes the anchors to trust-manager's Bundle as its in-line source.

    Other sources stay: a Secret among them may hold an anchor as well.
    Source: https://cert-manager.io/docs/trust/trust-manager/#usage
    """
    bundle = cluster.get(TRUST_MANAGER, "Bundle", TRUST_ROOTS)
    if bundle is None:
        raise NotReady(
            f"Bundle/{TRUST_ROOTS}",
            expected="trust-manager's Bundle, which owns the ConfigMap of that name",
            found="none",
            remedy="Name the Bundle like the ConfigMap, or stop it from owning the ConfigMap.",
        )
    sources: list[dict[str, Any]] = bundle["spec"].get("sources") or []
    kept = [source for source in sources if "inLine" not in source]
    bundle["spec"]["sources"] = [*kept, {"inLine": wanted}]
    if bundle["spec"]["sources"] != sources:
        cluster.replace(bundle)


def await_roots(mesh: Mesh, wanted: frozenset[str], *, may_have_more: bool = False) -> None:
    """Waits until the ConfigMap holds these anchors.

    Args:
        may_have_more: whether it may hold others too.

    Raises:
        NotReady: its owner did not write it; quotes the Bundle's conditions.
    """
    for is_last in polls(min(mesh.config.timeout_seconds, 60), every=0.5):
        roots = read_roots(mesh)
        found = _fingerprints(bundle_of(roots), TRUST_ROOTS)
        if found == wanted or (may_have_more and found >= wanted):
            return
        if is_last:
            raise NotReady(
                name_of(roots) if roots else f"ConfigMap/{TRUST_ROOTS}",
                expected=f"{len(wanted)} trust anchors: {', '.join(sorted(wanted))}",
                found="; ".join([", ".join(sorted(found)) or "none", *_of_bundle(mesh.cluster)]),
                remedy="See who else writes it: sources of a Bundle, or a GitOps controller.",
            )


def _of_bundle(cluster: Cluster) -> list[str]:
    """The conditions that trust-manager reports on its Bundle."""
    bundle: Object = cluster.get(TRUST_MANAGER, "Bundle", TRUST_ROOTS) or {}
    conditions: list[dict[str, Any]] = bundle.get("status", {}).get("conditions") or []
    return [f"Bundle/{TRUST_ROOTS} {c.get('reason')}: {c.get('message')}" for c in conditions]
