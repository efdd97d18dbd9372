"""A mesh's trust anchor: adopted, provided or created, and where its private key is kept."""

from __future__ import annotations

import base64
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import MeshConfig, TrustAnchorConfig
from prefect_linkerd.mesh.errors import ApiError, CertificateError, InvalidInput, OwnershipConflict
from prefect_linkerd.mesh.helm.ownership import Owner, owner_of
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Cluster, Object
from prefect_linkerd.mesh.linkerd.facts import TRUST_ROOTS
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    CertificateInfo,
    KeyPair,
    check_key_matches,
    check_trust_anchor,
    create_trust_anchor,
    decrypt_private_key,
    encrypt_private_key,
    fingerprints,
    join_bundle,
    read_certificates,
    signed_by,
)

BUNDLE = "ca-bundle.crt"
ANCHOR_SECRET = "linkerd-trust-anchor"  # noqa: S105 the name of an object
ISSUER_SECRET = "linkerd-identity-issuer"  # noqa: S105 the name of an object
TLS = "kubernetes.io/tls"
LINKERD_TLS = "linkerd.io/tls"
"""The issuer's scheme with which the control plane's chart renders its Secret from values.

Source: linkerd2 `charts/linkerd-control-plane/templates/identity.yaml`.
"""

THIS_CLUSTER = "this cluster"
"""The value of `KeyPair.cluster` for a key in the mesh's own cluster."""

PROVIDE_KEY = (
    "Provide it (trust_anchor.certificate_file and private_key_file), or name the place where it "
    "is kept (trust_anchor.secret_block or key_file)."
)
"""The remedy if the mesh's anchor is known, but not its key."""

Origin = Literal["adopted", "provided", "made"]


class KeyStore(Protocol):
    """A place for a trust anchor's private key. Implementations never show the key."""

    where: str
    """The place, for messages."""

    def load(self) -> KeyPair | None:
        """Returns the stored anchor with its key, or None."""
        ...

    def store_once(self, pair: KeyPair) -> None:
        """Stores an anchor with its key; storing the same one again is fine.

        Raises:
            OwnershipConflict: another one is stored there.
        """
        ...

    def replace(self, pair: KeyPair) -> None:
        """Replaces what is stored with an anchor and its key, atomically."""
        ...

    def remove(self) -> None:
        """Removes what is stored, if anything."""
        ...

    def beside(self, mark: str) -> KeyStore:
        """Returns a store of the same kind beside this one, for a second key during a rotation."""
        ...


def is_same(one: str, other: str) -> bool:
    """Whether two PEM texts hold the same certificates."""
    return fingerprints(one, "certificate") == fingerprints(other, "certificate")


def refuse_other(where: str) -> OwnershipConflict:
    """Returns the error that every key store raises if its place is taken."""
    return OwnershipConflict(
        where,
        expected="no trust anchor, or the same one",
        found="another trust anchor's key",
        remedy="Choose another place for the key, or move that one away.",
    )


_CLUSTER = re.compile(r"^Cluster: (\S+)\n\Z", re.M)


class FileKeyStore:
    """A file with the certificate and the passphrase-encrypted key (PKCS#8).

    A line between the two names the anchor's cluster. PEM readers skip it (RFC 7468, section 2).
    """

    def __init__(self, path: Path, passphrase: SecretStr) -> None:
        self._path = path.expanduser()
        self._passphrase = passphrase
        self.where = f"file {self._path}"

    def load(self) -> KeyPair | None:
        try:
            content = self._path.read_text(errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from None
        certificate, mark, key = content.partition("-----BEGIN ENCRYPTED PRIVATE KEY-----")
        if not mark:
            raise InvalidInput(
                self.where,
                expected="a certificate and an encrypted private key",
                found="something else",
                remedy="Name another key_file.",
            )
        private = decrypt_private_key(SecretStr(mark + key), self._passphrase, self.where)
        cluster = _CLUSTER.search(certificate)
        return KeyPair(_CLUSTER.sub("", certificate), private, cluster[1] if cluster else "")

    def store_once(self, pair: KeyPair) -> None:
        content = self._content(pair)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write_once(content)
        except FileExistsError:
            kept = self.load()
            if kept is None or not is_same(kept.certificate, pair.certificate):
                raise refuse_other(self.where) from None
        except OSError as error:
            raise self._unusable(error) from None

    def _content(self, pair: KeyPair) -> str:
        cluster = f"Cluster: {pair.cluster}\n" if pair.cluster else ""
        return pair.certificate + cluster + encrypt_private_key(pair.private_key, self._passphrase)

    def replace(self, pair: KeyPair) -> None:
        content = self._content(pair)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(content, lambda name: Path(name).replace(self._path))
        except OSError as error:
            raise self._unusable(error) from None

    def remove(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def beside(self, mark: str) -> FileKeyStore:
        return FileKeyStore(self._path.with_name(f"{self._path.name}.{mark}"), self._passphrase)

    def _write_once(self, content: str) -> None:
        # A hard link appears atomically and never replaces a file.
        self._write(content, lambda name: os.link(name, self._path))

    def _write(self, content: str, put: Callable[[str], object]) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}-")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            put(name)
        finally:
            Path(name).unlink(missing_ok=True)
        # The directory entry must survive a power cut too: the certificate is used from now on.
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _unusable(self, error: OSError) -> InvalidInput:
        return InvalidInput(
            self.where,
            expected="a file that can be read, or a folder that it can be written to",
            found=error.strerror or type(error).__name__,
            remedy="Name another trust_anchor.key_file, or give the flow's user access to it.",
        )


class ClusterKeyStore:
    """Secret `linkerd-trust-anchor` (kubernetes.io/tls), where cert-manager's issuer reads it.

    Source: https://linkerd.io/2/tasks/automatically-rotating-control-plane-tls-credentials/
    """

    def __init__(self, cluster: Cluster, namespace: str, name: str = ANCHOR_SECRET) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self.where = f"Secret/{namespace}/{name}"

    def load(self) -> KeyPair | None:
        secret = read_tls_secret(self._cluster, self._name, self._namespace)
        if secret is None:
            return None
        if secret.private_key is None or not secret.certificate:
            raise OwnershipConflict(
                self.where,
                expected="tls.crt and tls.key",
                found=secret.found,
                remedy="Move this Secret away, or put the trust anchor and its key in it.",
            )
        return KeyPair(secret.certificate, secret.private_key, THIS_CLUSTER)

    def store_once(self, pair: KeyPair) -> None:
        try:
            self._cluster.create(self._secret(pair))
        except ApiError as error:
            if error.status != 409:
                raise
            kept = self.load()
            if kept is None or not is_same(kept.certificate, pair.certificate):
                raise refuse_other(self.where) from None

    def replace(self, pair: KeyPair) -> None:
        self._cluster.apply(self._secret(pair))

    def remove(self) -> None:
        self._cluster.delete("v1", "Secret", self._name, self._namespace)

    def beside(self, mark: str) -> ClusterKeyStore:
        return ClusterKeyStore(self._cluster, self._namespace, f"{self._name}-{mark}")

    def _secret(self, pair: KeyPair) -> Object:
        return tls_secret(
            self._name, self._namespace, pair.certificate, pair.private_key, pair.certificate
        )


class Unshown(str):
    """Text that is sent unchanged, but hidden where a traceback lists a frame's variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


def unshown(data: Mapping[str, str]) -> dict[str, str]:
    """Returns a Secret's data with values that no traceback shows."""
    return {key: Unshown(value) for key, value in data.items()}


def tls_secret(
    name: str, namespace: str, certificate: str, key: SecretStr, authority: str
) -> Object:
    """Returns a kubernetes.io/tls Secret with the signing certificate as `ca.crt`."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": MADE_HERE},
        "type": TLS,
        "data": {
            "tls.crt": base64.b64encode(certificate.encode()).decode(),
            "tls.key": Unshown(base64.b64encode(key.get_secret_value().encode()).decode()),
            "ca.crt": base64.b64encode(authority.encode()).decode(),
        },
    }


def secret_text(secret: Object) -> dict[str, str]:
    """Returns a Secret's decoded data; undecodable bytes become replacement characters."""
    data: dict[str, str] = secret.get("data") or {}
    return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}


@dataclass(frozen=True)
class TlsSecret:
    """The content of a Secret with a certificate; `found` describes its type and keys in messages.

    `scheme` is `linkerd.io/tls` if its keys are `crt.pem` and `key.pem`, as Linkerd's chart and CLI
    create them.
    """

    type: str
    certificate: str
    private_key: SecretStr | None
    authority: str
    found: str
    scheme: str
    owner: Owner

    @classmethod
    def of(cls, secret: Object) -> TlsSecret:
        text = secret_text(secret)
        owner = owner_of(secret)
        # Still the chart's Secret if somebody has added the other scheme's keys to it.
        is_linkerds = "crt.pem" in text and (owner.release is not None or "tls.crt" not in text)
        names = ("crt.pem", "key.pem") if is_linkerds else ("tls.crt", "tls.key")
        certificate, key = (text.get(name, "") for name in names)
        return cls(
            type=str(secret.get("type", "")),
            certificate=certificate,
            private_key=SecretStr(key) if key else None,
            authority=text.get("ca.crt", ""),
            found=f"type {secret.get('type')} with {', '.join(sorted(text)) or 'nothing'}",
            scheme=LINKERD_TLS if is_linkerds else TLS,
            owner=owner,
        )

    @property
    def is_chart_made(self) -> bool:
        """Whether the control plane's chart renders it from its release's values."""
        return self.scheme == LINKERD_TLS and self.owner.release is not None


def read_tls_secret(cluster: Cluster, name: str, namespace: str) -> TlsSecret | None:
    """Reads a Secret with a certificate and its key; None if it does not exist."""
    secret = cluster.get("v1", "Secret", name, namespace)
    return TlsSecret.of(secret) if secret is not None else None


@dataclass(frozen=True)
class TrustAnchor:
    """The public part of the trust anchor.

    `certificate` is the anchor that signs the issuer; `bundle` holds every anchor that the mesh has
    to trust. Both are PEM.
    """

    certificate: str
    bundle: str
    info: CertificateInfo
    origin: Origin


@dataclass(frozen=True)
class AnchorSnapshot:
    """The anchors in the key store, in the mesh's trust bundle and from the user (all PEM).

    `has_key` says whether the provided anchor came with its key; `issuer` is the certificate that
    the mesh's identity service signs with. `cluster` is the UID of this cluster, `kept_by` that of
    the cluster that the stored anchor belongs to; both are empty if unknown.
    """

    kept: str | None
    trusted: str
    provided: str | None
    has_key: bool
    issuer: str | None
    cluster: str
    kept_by: str = ""


def read_roots(mesh: Mesh) -> Object | None:
    """Reads the ConfigMap with every anchor that the mesh trusts."""
    return mesh.cluster.get("v1", "ConfigMap", TRUST_ROOTS, mesh.config.namespaces.linkerd)


def bundle_of(roots: Object | None) -> str:
    """Returns the PEM bundle in that ConfigMap; empty if there is none."""
    return str((roots or {}).get("data", {}).get(BUNDLE, ""))


def read_snapshot(mesh: Mesh, store: KeyStore | None) -> AnchorSnapshot:
    """Reads the anchors and the issuer; changes nothing.

    Args:
        store: None if no place for the key is chosen yet.

    Raises:
        InvalidInput: the provided anchor or the key store cannot be read.
    """
    namespace = mesh.config.namespaces.linkerd
    kept = store.load() if store is not None else None
    if store is not None and kept is not None:
        check_key_matches(kept.certificate, kept.private_key, store.where)
    roots = read_roots(mesh)
    issuer = read_tls_secret(mesh.cluster, ISSUER_SECRET, namespace)
    trusted = bundle_of(roots)
    return AnchorSnapshot(
        kept=kept.certificate if kept else None,
        trusted=trusted or (issuer.authority if issuer else ""),
        provided=provided_certificate(mesh.config.trust_anchor),
        has_key=bool(
            mesh.config.trust_anchor.private_key or mesh.config.trust_anchor.private_key_file
        ),
        issuer=issuer.certificate if issuer else None,
        cluster=cluster_uid(mesh.cluster),
        kept_by=kept.cluster if kept else "",
    )


def keeps_key(snapshot: AnchorSnapshot) -> bool:
    """Whether bootstrap would store a key: of an anchor created here, or provided with its key."""
    if snapshot.provided is not None:
        return snapshot.has_key
    return snapshot.kept is None and not snapshot.trusted and snapshot.issuer is None


def cluster_uid(cluster: Cluster) -> str:
    """Returns what identifies a cluster: the UID of its namespace kube-system.

    Uses a list request, which every flow that stores a key already has permission for.
    """
    found = cluster.list("v1", "Namespace", fields="metadata.name=kube-system")
    return next((str(obj["metadata"]["uid"]) for obj in found), "")


def decide_trust_anchor(
    snapshot: AnchorSnapshot, config: MeshConfig, now: datetime, where: str
) -> tuple[Origin, str | None]:
    """Decides which anchor to use: its origin and certificate (None: it has to be created).

    An anchor that the mesh trusts is never replaced, nor is a stored one. One that is stored for
    another cluster is used only if the user asks for that.

    Raises:
        InvalidInput: the provided or stored anchor is unfit, or not the one that the mesh trusts.
    """
    domain = config.trust_domain
    if snapshot.provided is not None:
        info = check_trust_anchor(
            snapshot.provided, domain, now, "trust_anchor.certificate", version=config.linkerd
        )
        _refuse_unless_trusted(
            info, snapshot.trusted, "trust_anchor.certificate", kept=snapshot.kept, where=where
        )
        if snapshot.kept is not None:
            if not is_same(snapshot.kept, info.pem):
                raise InvalidInput(
                    where,
                    expected="no trust anchor, or the one in trust_anchor.certificate",
                    found="another trust anchor with its key",
                    remedy="Choose another place for the key (trust_anchor.secret_block or "
                    "key_file), or leave trust_anchor.certificate empty to use the one kept there.",
                )
            return "adopted", info.pem
        if not snapshot.has_key and snapshot.issuer is None:
            raise InvalidInput(
                "trust_anchor.private_key",
                expected="the key of the provided anchor, as there is no issuer yet to be signed",
                found="none",
                remedy="Give private_key or private_key_file too.",
            )
        return "provided", info.pem
    if snapshot.kept is not None:
        info = check_trust_anchor(snapshot.kept, domain, now, where, version=config.linkerd)
        _refuse_unless_trusted(info, snapshot.trusted, where)
        _refuse_another_clusters(snapshot, config, where)
        return "adopted", info.pem
    if snapshot.trusted:
        current = _signing_anchor(snapshot)
        check_trust_anchor(
            current,
            domain,
            now,
            f"ConfigMap {TRUST_ROOTS}",
            version=config.linkerd,
            in_use=True,
        )
        return "adopted", current
    if snapshot.issuer is not None:
        raise InvalidInput(
            f"Secret {ISSUER_SECRET}",
            expected="the trust anchor that signed this issuer",
            found=f"no ca.crt in it, no ConfigMap {TRUST_ROOTS}, and none provided",
            remedy="Provide the anchor (trust_anchor.certificate), or move this Secret away.",
        )
    return "made", None


def _signing_anchor(snapshot: AnchorSnapshot) -> str:
    """Returns the anchor in the bundle that signed the issuer; the last one if that is unknown."""
    if snapshot.issuer:
        try:
            if signer := signed_by(snapshot.issuer, snapshot.trusted, ISSUER_SECRET):
                return signer.pem
        except CertificateError:
            pass  # the step that checks the issuer reports what is wrong with it
    return read_certificates(snapshot.trusted, TRUST_ROOTS)[-1].pem


def _refuse_another_clusters(snapshot: AnchorSnapshot, config: MeshConfig, where: str) -> None:
    """Raises unless the stored anchor belongs to this cluster or is meant to be shared.

    It belongs here if the mesh already trusts it, or if it was stored for this cluster (by a run
    that was interrupted). Anchors stored before the cluster was recorded can only be recognised by
    the former.
    """
    is_own = snapshot.kept_by in (THIS_CLUSTER, snapshot.cluster) and snapshot.kept_by
    if is_own or snapshot.trusted or config.trust_anchor.share_anchor:
        return
    raise InvalidInput(
        where,
        expected="no trust anchor, or the one of this cluster",
        found=f"the one of cluster {snapshot.kept_by}"
        if snapshot.kept_by
        else "one of an unknown cluster, which this cluster does not trust yet",
        remedy="To have an anchor of its own, give this cluster another place for the key "
        "(trust_anchor.secret_block or key_file). To use one anchor for several clusters, as "
        "multi-cluster needs, set trust_anchor.share_anchor.",
    )


def _refuse_unless_trusted(
    info: CertificateInfo, trusted: str, subject: str, *, kept: str | None = None, where: str = ""
) -> None:
    """Raises if the mesh does not trust an anchor.

    Args:
        kept: the anchor in the key store; if the mesh trusts that one, it was rotated to it.
        where: the key store's name.
    """
    if not trusted:
        return
    anchors = fingerprints(trusted, TRUST_ROOTS)
    if info.fingerprint in anchors:
        return
    is_rotated = kept is not None and bool(fingerprints(kept, where) & anchors)
    raise InvalidInput(
        subject,
        expected="the trust anchor that the mesh has",
        found="another one",
        remedy=f"The mesh has been rotated to the anchor in {where}: remove "
        "trust_anchor.certificate or certificate_file, and the private key beside it."
        if is_rotated
        else "To replace the anchor of a running mesh use rotate_anchor.",
    )


def ensure_trust_anchor(mesh: Mesh, store: KeyStore, now: datetime) -> TrustAnchor:
    """Returns the mesh's trust anchor; creates and stores one if there is none.

    The key is stored before anything uses the certificate, so a run that dies in between leaves an
    anchor that the next run adopts.

    Raises:
        InvalidInput: the provided, stored or trusted anchor is unfit; nothing was changed.
        OwnershipConflict: the place for the key holds another anchor.
    """
    snapshot = read_snapshot(mesh, store)
    origin, certificate = decide_trust_anchor(snapshot, mesh.config, now, store.where)
    if certificate is None:
        made = create_trust_anchor(mesh.config.trust_domain, mesh.config.lifetimes.anchor, now)
        pair = replace(made, cluster=snapshot.cluster)
        store.store_once(pair)
        certificate = pair.certificate
    elif origin == "provided" and snapshot.has_key:
        key = provided_key(mesh.config.trust_anchor, certificate)
        store.store_once(KeyPair(certificate, key, snapshot.cluster))
    bundle = join_bundle([*([snapshot.trusted] if snapshot.trusted else []), certificate])
    info = check_trust_anchor(
        certificate, mesh.config.trust_domain, now, store.where, version=mesh.config.linkerd
    )
    return TrustAnchor(certificate, bundle, info, origin)


def provided_certificate(config: TrustAnchorConfig) -> str | None:
    """Returns the PEM that the user provides, in a field or a file."""
    if config.certificate_file is None:
        return config.certificate
    return _read(config.certificate_file, "trust_anchor.certificate_file")


def provided_key(config: TrustAnchorConfig, certificate: str) -> SecretStr:
    """Returns the provided anchor's key, decrypted, after checking that it fits the certificate.

    Raises:
        InvalidInput: the key is missing, unreadable, or belongs to another certificate.
    """
    subject = "trust_anchor.private_key"
    key = config.private_key
    if key is None and config.private_key_file is not None:
        subject = "trust_anchor.private_key_file"
        key = SecretStr(_read(config.private_key_file, subject))
    if key is None:
        raise InvalidInput(
            subject, expected="a private key", found="none", remedy="Give private_key."
        )
    plain = decrypt_private_key(key, config.passphrase, subject)
    check_key_matches(certificate, plain, subject)
    return plain


def provided_pair(config: TrustAnchorConfig) -> KeyPair | None:
    """Returns the provided anchor with its key; None if either is not provided.

    Raises:
        InvalidInput: they cannot be read, or do not belong together.
    """
    certificate = provided_certificate(config)
    if certificate is None or not (config.private_key or config.private_key_file):
        return None
    return KeyPair(certificate, provided_key(config, certificate))


def _read(path: Path, subject: str) -> str:
    try:
        return path.expanduser().read_text()
    except UnicodeDecodeError:
        raise InvalidInput(
            subject,
            expected=f"PEM text in {path}",
            found="something that is not text, perhaps DER",
            remedy="Convert it: openssl x509 -inform der -in anchor.der -out anchor.crt (a key: "
            "openssl pkey -inform der -in key.der -out anchor.key).",
        ) from None
    except OSError as error:
        raise InvalidInput(
            subject,
            expected=f"a readable file {path}",
            found=error.strerror or type(error).__name__,
            remedy="Name an existing file that the flow's user may read.",
        ) from None
