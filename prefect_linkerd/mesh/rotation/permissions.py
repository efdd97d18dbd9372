"""The permissions of a rotation, checked before it changes anything so it cannot stop halfway."""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import PreflightFailed
from prefect_linkerd.mesh.identity.certificate_anchor import CertificateAnchor
from prefect_linkerd.mesh.identity.trust_anchor import ANCHOR_SECRET, ISSUER_SECRET, TRUST_ROOTS
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.permissions import GRANT, Permission, denied, in_words
from prefect_linkerd.mesh.records.rotation import RECORD
from prefect_linkerd.mesh.restarts import data_plane_reads, restart_permissions
from prefect_linkerd.mesh.rotation.key_ring import SECRETS_BESIDE
from prefect_linkerd.mesh.rotation.trust_bundle import TrustBundle

CERT_MANAGER = "cert-manager.io"


def issuer_permissions(
    config: MeshConfig,
    restarted: Iterable[Workload],
    *,
    has_record: bool,
    is_chart_made: bool = False,
) -> list[Permission]:
    """What `rotate_issuer` writes.

    Args:
        restarted: the workloads that it restarts; normally empty while the old issuer is valid.
        has_record: whether the rotations' record, which is also their lease, exists.
        is_charts: whether the control plane's chart makes the issuer, so its release is upgraded.
    """
    linkerd = config.namespaces.linkerd
    # Identity is restarted if it does not load the new issuer by itself.
    found = [
        Permission("update", "configmaps", namespace=linkerd, name=RECORD),
        Permission("patch", "deployments", "apps", linkerd),
        *restart_permissions(restarted),
    ]
    if not has_record:
        found.append(Permission("create", "configmaps", namespace=linkerd))
    if config.issuer == "cert-manager":
        found.append(Permission("patch", "certificates/status", CERT_MANAGER, linkerd))
    else:
        found.append(Permission("patch", "secrets", namespace=linkerd, name=ISSUER_SECRET))
    if is_chart_made:
        found += _release(linkerd)
    return found


def rotation_reads(config: MeshConfig) -> list[Permission]:
    """What the plan of `rotate_anchor` or `rotate_issuer` reads."""
    linkerd = config.namespaces.linkerd
    return [
        *data_plane_reads(),
        Permission("get", "configmaps", namespace=linkerd, name=TRUST_ROOTS),
        Permission("get", "configmaps", namespace=linkerd, name=RECORD),
        Permission("get", "secrets", namespace=linkerd),
    ]


def _release(linkerd: str) -> list[Permission]:
    """What an upgrade of the control plane's release needs besides its objects."""
    return [
        # Helm's records.
        *(
            Permission(verb, "secrets", namespace=linkerd)
            for verb in ("create", "list", "update", "delete")
        ),
        Permission("patch", "configmaps", namespace=linkerd),
        Permission("get", "deployments", "apps", linkerd),
        Permission("list", "replicasets", "apps", linkerd),
    ]


def anchor_permissions(
    config: MeshConfig,
    restarted: Iterable[Workload],
    bundle: TrustBundle,
    *,
    has_record: bool,
    anchor: CertificateAnchor | None = None,
    is_gentle: bool = False,
) -> list[Permission]:
    """What `rotate_anchor` writes: also the release, the trust bundle and the anchors' keys.

    Args:
        restarted: the workloads that it restarts.
        bundle: the trust bundle, which knows its owner.
        has_record: see `issuer_permissions`.
        anchor: the anchor if a Certificate owns it; then no keys and no ConfigMap are written.
        is_gentle: whether proxies' metrics have to prove that they renewed.
    """
    linkerd = config.namespaces.linkerd
    found = issuer_permissions(config, restarted, has_record=has_record)
    if anchor is not None:
        copy = anchor.copy
        return [
            *found,
            *(_release(linkerd) if bundle.follows else ()),
            Permission("patch", "certificates/status", CERT_MANAGER, anchor.anchor.namespace),
            Permission("create", "secrets", namespace=copy.namespace),
            Permission("get", "secrets", namespace=copy.namespace, name=copy.name),
            Permission("patch", "secrets", namespace=copy.namespace, name=copy.name),
        ]
    found += _release(linkerd)
    if is_gentle:
        found.append(Permission("get", "pods/proxy"))
    if config.issuer == "self-signed":
        # The previous issuer, kept for rolling back.
        found.append(Permission("patch", "secrets", namespace=linkerd))
    if config.trust_anchor.custody == "in-cluster":
        keys = config.anchor_namespace
        found.append(Permission("create", "secrets", namespace=keys))
        found += [
            Permission(verb, "secrets", namespace=keys, name=name)
            for verb, name in (
                ("get", ANCHOR_SECRET),
                ("patch", ANCHOR_SECRET),
                ("patch", SECRETS_BESIDE[0]),
                ("delete", SECRETS_BESIDE[0]),
            )
        ]
    if bundle.owner == "trust-manager":
        found += [
            Permission(verb, "bundles", "trust.cert-manager.io", name=TRUST_ROOTS)
            for verb in ("get", "update")
        ]
    return found


def lacking(cluster: Cluster, asked: Iterable[Permission]) -> str:
    """The permissions that this identity lacks, in words; empty if it has them all."""
    found = denied(cluster, asked)
    return in_words(found) if found else ""


def require(lacks: str) -> None:
    """Raises `PreflightFailed` if permissions are lacking."""
    if lacks:
        raise PreflightFailed(
            "permissions",
            expected="all permissions that a rotation needs, as it should not stop halfway",
            found=lacks,
            remedy=f"{GRANT} Nothing was changed by this run.",
        )
