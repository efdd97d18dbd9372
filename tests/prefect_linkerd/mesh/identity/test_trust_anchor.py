"""The trust anchor on a real API server, and its key in each store that can keep it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, OwnershipConflict
from prefect_linkerd.mesh.identity.issuer import ensure_self_signed_issuer
from prefect_linkerd.mesh.identity.trust_anchor import (
    ClusterKeyStore,
    FileKeyStore,
    KeyStore,
    cluster_uid,
    ensure_trust_anchor,
    provided_certificate,
    provided_key,
    tls_secret,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import KeyPair, create_trust_anchor
from tests.support.certificates import DOMAIN, YEAR, make, parsed, private_pem

PASSPHRASE = SecretStr("correct horse battery staple")


def now() -> datetime:
    return datetime.now(UTC)


def new_pair() -> KeyPair:
    return create_trust_anchor(DOMAIN, YEAR, now())


def config(namespace: str, **anchor: Any) -> MeshConfig:
    return MeshConfig.model_validate({"namespaces": {"linkerd": namespace}, "trust_anchor": anchor})


@pytest.fixture(params=["file", "cluster"])
def store(
    request: pytest.FixtureRequest, cluster: Cluster, namespace: str, tmp_path: Path
) -> KeyStore:
    if request.param == "cluster":
        return ClusterKeyStore(cluster, namespace)
    return FileKeyStore(tmp_path / "keys" / "anchor.pem", PASSPHRASE)


# Every store


def test_a_store_gives_back_what_it_keeps_and_keeps_it_once(store: KeyStore) -> None:
    assert store.load() is None
    pair, other = new_pair(), new_pair()
    store.store_once(pair)
    store.store_once(KeyPair(pair.certificate.strip() + "\n\n", pair.private_key))
    assert store.load() == pair
    with pytest.raises(OwnershipConflict) as caught:
        store.store_once(other)
    assert caught.value.subject == store.where
    assert store.load() == pair


def test_of_many_at_once_one_is_kept_and_the_others_are_told(store: KeyStore) -> None:
    pairs = [new_pair() for _ in range(6)]

    def keep(pair: KeyPair) -> bool:
        try:
            store.store_once(pair)
        except OwnershipConflict:
            return False
        return True

    with ThreadPoolExecutor(len(pairs)) as pool:
        kept = list(pool.map(keep, pairs))
    assert kept.count(True) == 1
    assert store.load() == pairs[kept.index(True)]


def test_an_anchor_is_made_once_and_adopted_ever_after(
    cluster: Cluster, namespace: str, store: KeyStore
) -> None:
    made = ensure_trust_anchor(Mesh(cluster, config(namespace)), store, now())
    again = ensure_trust_anchor(Mesh(cluster, config(namespace)), store, now())
    assert (made.origin, again.origin) == ("made", "adopted")
    assert made.certificate == again.certificate == made.bundle == again.bundle
    kept = store.load()
    assert kept is not None
    assert kept.certificate == made.certificate
    assert made.info.common_name == "root.linkerd.cluster.local"
    assert round(made.info.days_left(now())) == 3650


def test_a_provided_anchor_is_kept_with_its_key(
    cluster: Cluster, namespace: str, store: KeyStore
) -> None:
    pair = new_pair()
    mesh = config(namespace, certificate=pair.certificate, private_key=pair.private_key)
    assert ensure_trust_anchor(Mesh(cluster, mesh), store, now()).origin == "provided"
    assert store.load() == pair
    assert ensure_trust_anchor(Mesh(cluster, mesh), store, now()).origin == "adopted"
    # Without a certificate in the configuration, the kept one is used.
    assert ensure_trust_anchor(Mesh(cluster, config(namespace)), store, now()).certificate == (
        pair.certificate
    )


def test_a_provided_key_of_another_certificate_is_refused_and_nothing_is_kept(
    cluster: Cluster, namespace: str, store: KeyStore
) -> None:
    mesh = config(namespace, certificate=new_pair().certificate, private_key=new_pair().private_key)
    with pytest.raises(InvalidInput, match=r"trust_anchor\.private_key"):
        ensure_trust_anchor(Mesh(cluster, mesh), store, now())
    assert store.load() is None


def test_a_kept_key_that_is_not_its_certificates_is_refused(
    cluster: Cluster, namespace: str, store: KeyStore
) -> None:
    store.store_once(KeyPair(new_pair().certificate, new_pair().private_key))
    with pytest.raises(InvalidInput, match="the private key of its certificate") as caught:
        ensure_trust_anchor(Mesh(cluster, config(namespace)), store, now())
    assert caught.value.subject == store.where


def test_of_two_fresh_clusters_with_one_key_store_the_second_is_refused_unless_it_is_shared(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    store = FileKeyStore(tmp_path / "anchor.pem", PASSPHRASE)
    first = replace(new_pair(), cluster="6c2f0a52-0000-4b1e-8000-000000000001")
    store.store_once(first)

    with pytest.raises(InvalidInput) as caught:
        ensure_trust_anchor(Mesh(cluster, config(namespace)), store, now())
    error = caught.value
    assert error.subject == store.where
    assert error.found == f"the one of cluster {first.cluster}"
    assert "trust_anchor.secret_block or key_file" in error.remedy
    assert "trust_anchor.share_anchor" in error.remedy
    kept = store.load()
    assert kept is not None
    assert (kept, kept.cluster) == (first, first.cluster)

    # Each of the choices that the message offers.
    other = FileKeyStore(tmp_path / "second.pem", PASSPHRASE)
    own = ensure_trust_anchor(Mesh(cluster, config(namespace)), other, now())
    assert own.origin == "made"
    kept = other.load()
    assert kept is not None
    assert kept.cluster == cluster_uid(cluster)
    shared = ensure_trust_anchor(Mesh(cluster, config(namespace, share_anchor=True)), store, now())
    assert (shared.origin, shared.certificate) == ("adopted", first.certificate)
    explicit = config(namespace, certificate=first.certificate)
    assert (
        ensure_trust_anchor(Mesh(cluster, explicit), store, now()).certificate == first.certificate
    )


def test_an_anchor_that_the_mesh_trusts_is_its_own_whichever_cluster_stored_it(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    for number, noted in enumerate(("", "6c2f0a52-0000-4b1e-8000-000000000001")):
        store = FileKeyStore(tmp_path / f"{number}.pem", PASSPHRASE)
        pair = replace(new_pair(), cluster=noted)
        store.store_once(pair)
        cluster.delete("v1", "ConfigMap", "linkerd-identity-trust-roots", namespace)
        trust(cluster, namespace, pair.certificate)
        assert (
            ensure_trust_anchor(Mesh(cluster, config(namespace)), store, now()).origin == "adopted"
        )


class DiesAfterKeeping:
    """A run that dies the moment its key is stored."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self.where = store.where

    def load(self) -> KeyPair | None:
        return self._store.load()

    def store_once(self, pair: KeyPair) -> None:
        self._store.store_once(pair)
        raise KeyboardInterrupt


def test_what_a_dead_run_kept_is_the_next_runs_anchor(
    cluster: Cluster, namespace: str, store: KeyStore
) -> None:
    with pytest.raises(KeyboardInterrupt):
        ensure_trust_anchor(Mesh(cluster, config(namespace)), DiesAfterKeeping(store), now())
    kept = store.load()
    assert kept is not None
    anchor = ensure_trust_anchor(Mesh(cluster, config(namespace)), store, now())
    assert (anchor.origin, anchor.certificate) == ("adopted", kept.certificate)
    issuer = ensure_self_signed_issuer(Mesh(cluster, config(namespace)), anchor, store, now())
    assert issuer.origin == "made"


# An existing mesh


def trust(cluster: Cluster, namespace: str, bundle: str) -> None:
    cluster.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "linkerd-identity-trust-roots", "namespace": namespace},
            "data": {"ca-bundle.crt": bundle},
        }
    )


def test_the_anchor_of_a_mesh_is_adopted_without_its_key(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    old, new = new_pair(), new_pair()
    trust(cluster, namespace, old.certificate + new.certificate)
    issuer = make("identity.linkerd.cluster.local", signer=parsed(old)).pair
    cluster.create(
        tls_secret(
            "linkerd-identity-issuer",
            namespace,
            issuer.certificate,
            issuer.private_key,
            old.certificate,
        )
    )
    store = FileKeyStore(tmp_path / "key", PASSPHRASE)
    anchor = ensure_trust_anchor(Mesh(cluster, config(namespace)), store, now())
    assert anchor.origin == "adopted"
    assert anchor.certificate == old.certificate
    assert anchor.bundle == old.certificate + new.certificate
    assert store.load() is None


def test_an_anchor_other_than_the_meshs_is_refused_and_nothing_is_kept(
    cluster: Cluster, namespace: str, store: KeyStore
) -> None:
    pair = new_pair()
    trust(cluster, namespace, new_pair().certificate)
    mesh = config(namespace, certificate=pair.certificate, private_key=pair.private_key)
    with pytest.raises(InvalidInput, match="rotate_anchor"):
        ensure_trust_anchor(Mesh(cluster, mesh), store, now())
    assert store.load() is None


# Files


def test_the_file_is_for_its_owner_and_is_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "anchor.pem"
    FileKeyStore(path, PASSPHRASE).store_once(new_pair())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    text = path.read_text()
    assert text.startswith("-----BEGIN CERTIFICATE-----")
    assert "-----BEGIN ENCRYPTED PRIVATE KEY-----" in text
    assert "-----BEGIN PRIVATE KEY-----" not in text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\x00\x80",
        make().pem.encode(),
        (make().pem + private_pem(make().key)).encode(),
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    ],
    ids=["empty", "text", "binary", "certificate", "key in the clear", "damaged"],
)
def test_a_file_that_is_something_else_is_refused_and_left_alone(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "anchor.pem"
    path.write_bytes(content)
    store = FileKeyStore(path, PASSPHRASE)
    for act in (store.load, lambda: store.store_once(new_pair())):
        with pytest.raises(InvalidInput) as caught:
            act()
        assert caught.value.subject == f"file {path}"
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FileKeyStore(tmp_path / "file" / "anchor.pem", PASSPHRASE)
    with pytest.raises(InvalidInput, match="Name another"):
        store.store_once(new_pair())


def test_what_is_provided_in_files_is_read(tmp_path: Path) -> None:
    made = make()
    (tmp_path / "crt").write_text(made.pem)
    (tmp_path / "key").write_text(private_pem(made.key, PASSPHRASE.get_secret_value()))
    provided = config(
        "linkerd",
        certificate_file=tmp_path / "crt",
        private_key_file=tmp_path / "key",
        passphrase=PASSPHRASE,
    ).trust_anchor
    assert provided_certificate(provided) == made.pem
    assert provided_key(provided, made.pem) == made.pair.private_key


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "No such file"),
    "a folder": (lambda path: path.mkdir(), "Is a directory"),
    "DER": (lambda path: path.write_bytes(b"\x30\x82\xff\xfe"), "perhaps DER"),
}


@pytest.mark.parametrize("wrong", BAD_FILES)
def test_a_provided_file_that_cannot_be_read_is_refused(wrong: str, tmp_path: Path) -> None:
    prepare, message = BAD_FILES[wrong]
    prepare(tmp_path / "crt")
    with pytest.raises(InvalidInput, match=message) as caught:
        provided_certificate(config("linkerd", certificate_file=tmp_path / "crt").trust_anchor)
    assert caught.value.subject == "trust_anchor.certificate_file"


# The cluster


def test_offline_custody_brings_no_key_of_the_anchor_into_the_cluster(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    store = FileKeyStore(tmp_path / "key", PASSPHRASE)
    mesh = config(namespace)
    anchor = ensure_trust_anchor(Mesh(cluster, mesh), store, now())
    ensure_self_signed_issuer(Mesh(cluster, mesh), anchor, store, now())
    kept = store.load()
    assert kept is not None
    secrets = list(cluster.list("v1", "Secret", namespace))
    assert [secret["metadata"]["name"] for secret in secrets] == ["linkerd-identity-issuer"]
    for secret in secrets:
        for value in secret["data"].values():
            assert kept.private_key.get_secret_value() not in base64.b64decode(value).decode()


def test_the_secret_is_the_one_that_cert_managers_ca_issuer_reads(
    cluster: Cluster, namespace: str
) -> None:
    store = ClusterKeyStore(cluster, namespace)
    pair = new_pair()
    store.store_once(pair)
    secret = cluster.get("v1", "Secret", "linkerd-trust-anchor", namespace)
    assert secret is not None
    assert secret["type"] == "kubernetes.io/tls"
    data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert data == {
        "tls.crt": pair.certificate,
        "tls.key": pair.private_key.get_secret_value(),
        "ca.crt": pair.certificate,
    }


def test_a_secret_of_that_name_that_is_something_else_is_refused(
    cluster: Cluster, namespace: str
) -> None:
    cluster.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "linkerd-trust-anchor", "namespace": namespace},
            "data": {"other": base64.b64encode(b"\xff\x00").decode()},
        }
    )
    with pytest.raises(OwnershipConflict, match="type Opaque with other") as caught:
        ClusterKeyStore(cluster, namespace).load()
    assert caught.value.subject == f"Secret/{namespace}/linkerd-trust-anchor"
