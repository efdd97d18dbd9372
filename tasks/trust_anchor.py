"""The step that gives the mesh its trust anchor, and where the private key is kept."""

from __future__ import annotations

import json
from typing import cast

from pydantic import SecretStr

from prefect_linkerd.mesh.bootstrap.run import Bootstrap
from prefect_linkerd.mesh.identity.trust_anchor import (
    ClusterKeyStore,
    FileKeyStore,
    KeyStore,
    TrustAnchor,
    is_same,
    provided_pair,
    refuse_other,
)
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import KeyPair
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.tasks.names import mesh_key
from prefect_linkerd.tasks.outside import get_run_logger, outside
from prefect_linkerd.tasks.step import step


def load_secret(name: str) -> object:
    """The content of a Prefect Secret block, or None if no block has this name.

    Raises:
        InvalidInput: there is no Prefect server.
    """
    return outside().secret(name)


class SecretBlockKeyStore:
    """Keeps a trust anchor with its key in a Prefect Secret block, which the server encrypts."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.where = f"Prefect Secret block {name}"
        if not outside().has_server:
            self.where += " (but PREFECT_API_URL names no Prefect server)"

    def load(self) -> KeyPair | None:
        if not outside().has_server:
            return None
        content = load_secret(self._name)
        if content is None:
            return None
        if isinstance(content, str):
            content = json.loads(content)
        pair = cast("dict[str, str]", content)
        key = SecretStr(pair["private_key"])
        return KeyPair(pair["certificate"], key, pair.get("cluster", ""))

    def store_once(self, pair: KeyPair) -> None:
        if (existing := self.load()) is not None:
            if not is_same(existing.certificate, pair.certificate):
                raise refuse_other(self.where)
            return
        try:
            self._save(pair, overwrite=False)
        except ValueError:
            # Another run was faster.
            raise refuse_other(self.where) from None

    def replace(self, pair: KeyPair) -> None:
        self._save(pair, overwrite=True)

    def remove(self) -> None:
        # Prefect raises an error if the block does not exist.
        if self.load() is not None:
            outside().delete_secret(self._name)

    def beside(self, mark: str) -> SecretBlockKeyStore:
        return SecretBlockKeyStore(f"{self._name}-{mark}")

    def _save(self, pair: KeyPair, *, overwrite: bool) -> None:
        content = {
            "certificate": pair.certificate,
            "private_key": pair.private_key.get_secret_value(),
            "cluster": pair.cluster,
        }
        outside().save_secret(self._name, json.dumps(content), overwrite=overwrite)


def key_store(mesh: Mesh) -> KeyStore:
    """Where this mesh's trust anchor key is kept, as configured."""
    anchor = mesh.config.trust_anchor
    if anchor.custody == "in-cluster":
        return ClusterKeyStore(mesh.cluster, mesh.config.anchor_namespace)
    if anchor.key_file is not None and anchor.passphrase is not None:
        return FileKeyStore(anchor.key_file, anchor.passphrase)
    return SecretBlockKeyStore(anchor.secret_block or mesh_key(mesh.name, "trust-anchor"))


def key_ring(mesh: Mesh) -> KeyRing:
    """The places of this mesh's anchor keys, and the key that its configuration provides."""
    anchor = mesh.config.trust_anchor
    return KeyRing(
        key_store(mesh),
        provided=lambda: provided_pair(anchor),
        is_shared=anchor.share_anchor,
    )


@step("trust anchor", description="Adopts or creates the trust anchor; never replaces one.")
def trust_anchor(run: Bootstrap) -> TrustAnchor:
    anchor = run.ensure_anchor()
    get_run_logger().info(
        "Trust anchor %s (%s), sha256 %s, until %s",
        anchor.info.subject,
        anchor.origin,
        anchor.info.fingerprint,
        anchor.info.not_after.date(),
    )
    return anchor
