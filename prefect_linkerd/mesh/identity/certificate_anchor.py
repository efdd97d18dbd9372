"""A trust anchor that a cert-manager Certificate owns and a trust-manager Bundle distributes.

In this layout from Linkerd's documentation, only cert-manager writes the anchor's Secret. The
Bundle has two Secrets as sources: that one, and a manually made copy of the previous anchor's.
Their roles are read from the cluster: the issuer's Certificate names its cert-manager issuer, which
names the Secret that it signs with. If a Certificate owns that Secret, the mesh has this layout;
the Bundle's other Secret, which no Certificate owns, is the copy. Annotations prove nothing: a copy
may have them too.

Source: https://linkerd.io/2/tasks/automatically-rotating-control-plane-tls-credentials/
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from prefect_linkerd.mesh.errors import (
    CertificateError,
    InvalidInput,
    MeshError,
    NotReady,
    OwnershipConflict,
)
from prefect_linkerd.mesh.helm.cert_manager import CERT_MANAGER, certificate_for
from prefect_linkerd.mesh.helm.ownership import owner_of, refuse_theirs
from prefect_linkerd.mesh.identity.trust_anchor import (
    ISSUER_SECRET,
    TLS,
    TRUST_ROOTS,
    TlsSecret,
    read_tls_secret,
    secret_text,
    unshown,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.kubernetes.objects import is_true
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    CertificateInfo,
    fingerprints,
    join_bundle,
    read_certificates,
)

TRUST_MANAGER = "trust.cert-manager.io/v1alpha1"
LAYOUT = "https://linkerd.io/2/tasks/automatically-rotating-control-plane-tls-credentials/"


@dataclass(frozen=True)
class Renewals:
    """When cert-manager renews a Certificate.

    `due` is the next renewal and `every` the time between two renewals; None if its status does not
    say. `is_issuing` says whether it is being renewed now.
    """

    namespace: str
    name: str
    due: datetime | None
    every: timedelta | None
    is_issuing: bool

    @property
    def subject(self) -> str:
        """How messages name it."""
        return f"Certificate/{self.namespace}/{self.name}"


@dataclass(frozen=True)
class CopySource:
    """The Bundle's source for the previous anchor: a manually made Secret, perhaps not made yet."""

    namespace: str
    name: str
    key: str
    certificates: str

    @property
    def subject(self) -> str:
        """How messages name it."""
        return f"Secret/{self.namespace}/{self.name}"

    @property
    def anchors(self) -> frozenset[str]:
        """The fingerprints of its certificates."""
        return anchors_in(self.certificates)


@dataclass(frozen=True)
class CertificateAnchor:
    """The anchor's Certificate with everything that a rotation needs to know about this layout.

    `current` is the anchor that cert-manager signs the issuer with from now on. `fixed` are the
    anchors in the Bundle's in-line sources, and `has_others` says whether it has sources that are
    not read. `obstacle` is why the layout cannot be rotated. `known` is the PEM of every anchor
    in these objects. `read_at` is the time by the API server's clock.
    """

    secret: str
    current: CertificateInfo
    previous: CopySource | None
    fixed: frozenset[str]
    has_others: bool
    anchor: Renewals
    issuer: Renewals
    known: str
    read_at: datetime
    obstacle: MeshError | None = field(default=None, repr=False)

    @property
    def copy(self) -> CopySource:
        """The source for the previous anchor.

        Raises:
            MeshError: the layout lacks something that a rotation needs.
        """
        if self.obstacle is not None:
            raise self.obstacle
        if self.previous is None:
            raise RuntimeError("a layout without obstacle has both sources")
        return self.previous


@functools.lru_cache(256)
def anchors_in(pem: str) -> frozenset[str]:
    """Returns the fingerprints of a PEM text's certificates; empty if it is unreadable.

    Cached, as thousands of pods have the same few bundles.
    """
    try:
        return fingerprints(pem, "trust anchor") if pem.strip() else frozenset()
    except CertificateError:
        return frozenset()


def signing_secret(mesh: Mesh, issuer: Object) -> tuple[str, str] | None:
    """Returns namespace and name of the Secret that a Certificate's CA issuer signs with.

    A ClusterIssuer's Secret is in cert-manager's cluster resource namespace.
    """
    reference: dict[str, str] = issuer["spec"]["issuerRef"]
    if reference.get("group", "cert-manager.io") != "cert-manager.io":
        return None
    kind = reference.get("kind", "Issuer")
    is_cluster = kind == "ClusterIssuer"
    place = mesh.config.namespaces.cert_manager if is_cluster else issuer["metadata"]["namespace"]
    found = mesh.cluster.get(CERT_MANAGER, kind, reference["name"], None if is_cluster else place)
    authority: dict[str, str] = (found or {}).get("spec", {}).get("ca") or {}
    name = authority.get("secretName")
    return (place, name) if name else None


@dataclass(frozen=True)
class AnchorOwner:
    """The Certificates of the anchor and of the issuer, and all in the anchor's namespace."""

    certificate: Object
    issuer: Object
    beside: tuple[Object, ...] = ()


def read_anchor_owner(mesh: Mesh) -> AnchorOwner | None:
    """Returns the Certificate that owns the anchor; None if there is none. Reads no Secret."""
    issuer = certificate_for(
        mesh.cluster.list(CERT_MANAGER, "Certificate", mesh.config.namespaces.linkerd),
        ISSUER_SECRET,
    )
    place = signing_secret(mesh, issuer) if issuer is not None else None
    if issuer is None or place is None:
        return None
    namespace, secret = place
    beside = tuple(mesh.cluster.list(CERT_MANAGER, "Certificate", namespace))
    owner = certificate_for(beside, secret)
    return AnchorOwner(owner, issuer, beside) if owner is not None else None


def issued_by(owner: Object, bundle: str) -> CertificateInfo | None:
    """Finds a Certificate's current anchor in a trust bundle by the times in its status."""
    status: Object = owner.get("status") or {}
    if not anchors_in(bundle):
        return None
    for info in read_certificates(bundle, "trust bundle"):
        times = (info.not_before, info.not_after)
        if times == tuple(_time(status.get(key)) for key in ("notBefore", "notAfter")):
            return info
    return None


def _time(text: object) -> datetime | None:
    return datetime.fromisoformat(str(text)) if text else None


def lacks(anchor: CertificateInfo, bundle: str, started: datetime | None) -> bool:
    """Whether a proxy certainly does not trust an anchor.

    Args:
        bundle: the trust bundle that it was injected with. The control plane's proxies have none
            and are judged by their start.
        started: when its pod started; if that was before the anchor existed, it cannot have read
            the anchor.
    """
    if bundle:
        return anchor.fingerprint not in anchors_in(bundle)
    return started is not None and started < anchor.not_before


def read_certificate_anchor(mesh: Mesh) -> CertificateAnchor | None:
    """Reads the layout; None if no Certificate owns the anchor. Changes nothing.

    Raises:
        NotReady: cert-manager has not written the anchor yet.
    """
    found = read_anchor_owner(mesh)
    if found is None:
        return None
    owner, issuer, name = found.certificate, found.issuer, found.certificate["spec"]["secretName"]
    namespace: str = owner["metadata"]["namespace"]
    secret = read_tls_secret(mesh.cluster, name, namespace)
    if secret is None or not secret.certificate:
        raise NotReady(
            f"Secret/{namespace}/{name}",
            expected=f"the trust anchor of Certificate/{namespace}/{owner['metadata']['name']}",
            found="nothing",
            remedy="Look at that Certificate's conditions and cert-manager's log.",
        )
    current = read_certificates(secret.certificate, f"Secret/{namespace}/{name}")[0]
    signed = read_tls_secret(mesh.cluster, ISSUER_SECRET, mesh.config.namespaces.linkerd)
    bundle = mesh.cluster.get(TRUST_MANAGER, "Bundle", TRUST_ROOTS)
    previous, lack = _copy_source(mesh.cluster, found, bundle)
    sources = _sources(bundle)
    inline = [str(source["inLine"]) for source in sources if source.get("inLine")]
    texts = [secret.certificate, previous.certificates if previous else ""]
    texts += [signed.authority if signed else "", secret.authority]
    return CertificateAnchor(
        secret=name,
        current=current,
        previous=previous,
        fixed=frozenset[str]().union(*map(anchors_in, inline)),
        has_others=len(sources) > len(inline) + 2,
        anchor=renewals(owner),
        issuer=renewals(issuer),
        known=join_readable(texts),
        read_at=mesh.cluster.clock(),
        obstacle=lack or _unfit(owner, secret),
    )


def join_readable(texts: Iterable[str]) -> str:
    """Joins the readable ones of some PEM texts into a bundle."""
    return join_bundle([text for text in texts if anchors_in(text)])


def renewals(certificate: Object) -> Renewals:
    """Returns when cert-manager renews a Certificate, from its status."""
    status: Object = certificate.get("status") or {}
    due, begun = _time(status.get("renewalTime")), _time(status.get("notBefore"))
    return Renewals(
        namespace=certificate["metadata"]["namespace"],
        name=certificate["metadata"]["name"],
        due=due,
        every=due - begun if due is not None and begun is not None else None,
        is_issuing=is_true(certificate, "Issuing"),
    )


def _sources(bundle: Object | None) -> list[Object]:
    spec: Mapping[str, Any] = (bundle or {}).get("spec") or {}
    return cast("list[Object]", spec.get("sources") or [])


def _copy_source(
    cluster: Cluster, found: AnchorOwner, bundle: Object | None
) -> tuple[CopySource | None, MeshError | None]:
    """Returns the Bundle's Secret that no Certificate owns, and why it cannot be used, if so."""
    owner = found.certificate
    namespace: str = owner["metadata"]["namespace"]
    secret: str = owner["spec"]["secretName"]
    named = {
        source["secret"]["name"]: source["secret"]
        for source in _sources(bundle)
        if source.get("secret", {}).get("name")
    }
    plain = [name for name in named if certificate_for(found.beside, name) is None]
    if secret not in named or len(plain) != 1:
        have = ", ".join(sorted(named)) or "none"
        return None, OwnershipConflict(
            f"Bundle/{TRUST_ROOTS}",
            expected=f"Secret {secret}, which Certificate/{namespace}/"
            f"{owner['metadata']['name']} owns, and one copy of the previous anchor's Secret "
            "among its sources",
            found=f"these Secrets: {have}" if bundle is not None else "no such Bundle",
            remedy=f"Only cert-manager may write Secret/{namespace}/{secret}. Give trust-manager's "
            f"Bundle both Secrets, as {LAYOUT} describes, then run again.",
        )
    name = plain[0]
    key = str(named[name].get("key") or "tls.crt")
    kept = cluster.get("v1", "Secret", name, namespace)
    text = secret_text(kept).get(key, "") if kept is not None else ""
    copy = CopySource(namespace, name, key, text)
    keeper = owner_of(kept) if kept is not None else None
    # A copy made with kubectl has cert-manager's annotations, although no Certificate owns it.
    if keeper is not None and keeper.reconciles and keeper.by != "cert-manager":
        remedy = "Make it leave this Secret's content alone: each rotation copies an anchor there."
        return copy, refuse_theirs(copy.subject, keeper, remedy)
    return copy, None


def _unfit(owner: Object, secret: TlsSecret) -> MeshError | None:
    spec: Object = owner["spec"]
    subject = f"Certificate/{owner['metadata']['namespace']}/{owner['metadata']['name']}"
    key: dict[str, str] = spec.get("privateKey") or {}
    policy = key.get("rotationPolicy")
    if policy != "Always":
        return InvalidInput(
            subject,
            expected="privateKey.rotationPolicy Always, so that a renewal has a key of its own",
            found=str(policy or "none, which means Never before cert-manager 1.18"),
            remedy="Set it to Always, then run again.",
        )
    if len(anchors_in(secret.certificate)) != 1:
        return InvalidInput(
            f"Secret/{owner['metadata']['namespace']}/{spec['secretName']}",
            expected="the trust anchor alone in tls.crt",
            found=f"{len(anchors_in(secret.certificate))} certificates",
            remedy="Have a self-signed issuer create the anchor, or rotate it manually.",
        )
    return None


# Writing


def copy_current(cluster: Cluster, anchor: CertificateAnchor, fingerprint: str) -> bool:
    """Copies the anchor's Secret to the previous anchor's, as Linkerd's documentation does.

    Args:
        fingerprint: the anchor that the Secret has to contain; otherwise nothing is written.

    Returns: whether it was written.
    """
    copy = anchor.copy
    secret = cluster.get("v1", "Secret", anchor.secret, copy.namespace)
    if secret is None or anchors_in(secret_text(secret).get("tls.crt", "")) != frozenset(
        {fingerprint}
    ):
        return False
    _write(cluster, copy, str(secret["type"]), secret["data"])
    return True


def keep_anchors(cluster: Cluster, anchor: CertificateAnchor, bundle: str) -> None:
    """Puts anchors with unknown keys into the previous anchor's Secret."""
    copy = anchor.copy
    text = {copy.key: base64.b64encode(bundle.encode()).decode()}
    kept = cluster.get("v1", "Secret", copy.name, copy.namespace)
    there: dict[str, str] = (kept or {}).get("data") or {}
    type_ = str((kept or {}).get("type") or TLS)
    # This type requires both fields, but the private key of a lost anchor is unknown.
    empty = {"tls.crt": "", "tls.key": ""} if type_ == TLS else {}
    _write(cluster, copy, type_, {**empty, **there, **text})


def _write(cluster: Cluster, copy: CopySource, type_: str, data: Mapping[str, str]) -> None:
    kept = cluster.get("v1", "Secret", copy.name, copy.namespace)
    hidden = unshown(data)
    if kept is None:
        cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": copy.name, "namespace": copy.namespace},
                "type": type_,
                "data": hidden,
            }
        )
        return
    there: dict[str, str] = kept.get("data") or {}
    gone = dict.fromkeys(there.keys() - hidden.keys())
    # The API refuses it if the Secret has changed since. Labels and annotations stay as they are.
    version = {"resourceVersion": kept["metadata"]["resourceVersion"]}
    patch = {"metadata": version, "data": {**gone, **hidden}}
    cluster.merge("v1", "Secret", copy.name, copy.namespace, patch)
