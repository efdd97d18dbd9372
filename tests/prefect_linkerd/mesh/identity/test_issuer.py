"""Issuers signed here, on a real API server."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import CertificateError, InvalidInput, OwnershipConflict
from prefect_linkerd.mesh.identity.issuer import check_issuer_secret, ensure_self_signed_issuer
from prefect_linkerd.mesh.identity.trust_anchor import (
    FileKeyStore,
    TrustAnchor,
    cluster_uid,
    ensure_trust_anchor,
    secret_text,
    tls_secret,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    check_key_matches,
    create_trust_anchor,
    sign_issuer,
)
from tests.support.certificates import DOMAIN, YEAR, make, parsed

NAME = "linkerd-identity-issuer"


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def config(namespace: str) -> MeshConfig:
    return MeshConfig.model_validate(
        {"namespaces": {"linkerd": namespace}, "lifetimes": {"issuer_days": 30}}
    )


@pytest.fixture
def store(tmp_path: Path) -> FileKeyStore:
    return FileKeyStore(tmp_path / "anchor.pem", SecretStr("correct horse battery staple"))


@pytest.fixture
def anchor(cluster: Cluster, config: MeshConfig, store: FileKeyStore) -> TrustAnchor:
    return ensure_trust_anchor(Mesh(cluster, config), store, now())


def read(cluster: Cluster, namespace: str) -> Object:
    secret = cluster.get("v1", "Secret", NAME, namespace)
    assert secret is not None
    return secret


def test_an_issuer_is_made_once_and_adopted_ever_after(
    cluster: Cluster, config: MeshConfig, anchor: TrustAnchor, store: FileKeyStore, namespace: str
) -> None:
    made = ensure_self_signed_issuer(Mesh(cluster, config), anchor, store, now())
    secret = read(cluster, namespace)
    again = ensure_self_signed_issuer(Mesh(cluster, config), anchor, store, now())
    assert (made.origin, again.origin) == ("made", "adopted")
    assert made.info == again.info
    assert read(cluster, namespace)["metadata"] == secret["metadata"]

    assert secret["type"] == "kubernetes.io/tls"
    data = secret_text(secret)
    assert sorted(data) == ["ca.crt", "tls.crt", "tls.key"]
    assert data["ca.crt"] == anchor.certificate
    check_key_matches(data["tls.crt"], SecretStr(data["tls.key"]), "issuer")
    assert (made.info.common_name, made.info.path_length) == ("identity.linkerd.cluster.local", 0)
    assert round(made.info.days_left(now())) == 30
    assert check_issuer_secret(secret, config, anchor.bundle, now()) == made.info


def test_runs_at_the_same_time_end_with_the_same_issuer(
    cluster: Cluster, config: MeshConfig, anchor: TrustAnchor, store: FileKeyStore
) -> None:
    with ThreadPoolExecutor(5) as pool:
        issuers = list(
            pool.map(
                lambda _: ensure_self_signed_issuer(Mesh(cluster, config), anchor, store, now()),
                range(5),
            )
        )
    assert len({issuer.info.fingerprint for issuer in issuers}) == 1
    assert [issuer.origin for issuer in issuers].count("made") == 1


def test_an_issuer_ends_no_later_than_its_anchor(
    cluster: Cluster, config: MeshConfig, store: FileKeyStore
) -> None:
    pair = create_trust_anchor(DOMAIN, timedelta(days=3), now())
    store.store_once(replace(pair, cluster=cluster_uid(cluster)))
    anchor = ensure_trust_anchor(Mesh(cluster, config), store, now())
    issuer = ensure_self_signed_issuer(Mesh(cluster, config), anchor, store, now())
    assert issuer.info.not_after == anchor.info.not_after


def test_without_the_anchors_key_nothing_is_written(
    cluster: Cluster, config: MeshConfig, anchor: TrustAnchor, namespace: str, tmp_path: Path
) -> None:
    empty = FileKeyStore(tmp_path / "nothing", SecretStr("correct horse battery staple"))
    with pytest.raises(InvalidInput, match="found none") as caught:
        ensure_self_signed_issuer(Mesh(cluster, config), anchor, empty, now())
    assert caught.value.subject == empty.where
    empty.store_once(create_trust_anchor(DOMAIN, YEAR, now()))
    with pytest.raises(InvalidInput, match="another trust anchor's"):
        ensure_self_signed_issuer(Mesh(cluster, config), anchor, empty, now())
    assert cluster.get("v1", "Secret", NAME, namespace) is None


def test_an_issuer_is_adopted_without_the_anchors_key(
    cluster: Cluster, config: MeshConfig, anchor: TrustAnchor, store: FileKeyStore, tmp_path: Path
) -> None:
    made = ensure_self_signed_issuer(Mesh(cluster, config), anchor, store, now())
    empty = FileKeyStore(tmp_path / "nothing", SecretStr("correct horse battery staple"))
    assert ensure_self_signed_issuer(Mesh(cluster, config), anchor, empty, now()) == replace(
        made, origin="adopted"
    )


def opaque(data: dict[str, str]) -> Callable[[str, FileKeyStore], dict[str, Any]]:
    return lambda _namespace, _store: {
        "type": "Opaque",
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in data.items()},
    }


def issued(
    *, by_another: bool = False, another_key: bool = False, ended: bool = False
) -> Callable[[str, FileKeyStore], dict[str, Any]]:
    def build(namespace: str, store: FileKeyStore) -> dict[str, Any]:
        pair = create_trust_anchor(DOMAIN, YEAR, now()) if by_another else store.load()
        assert pair is not None
        issuer = sign_issuer(pair, DOMAIN, YEAR, now())
        if ended:
            issuer = make("i", signer=parsed(pair), starts=-2 * YEAR, ends=-YEAR).pair
        key = make().pair.private_key if another_key else issuer.private_key
        return tls_secret(NAME, namespace, issuer.certificate, key, pair.certificate)

    return build


UNFIT: dict[str, tuple[Callable[[str, FileKeyStore], dict[str, Any]], type[Exception], str]] = {
    "the linkerd CLI's form": (
        opaque({"crt.pem": "c", "key.pem": "k"}),
        OwnershipConflict,
        "type Opaque with crt.pem, key.pem",
    ),
    "no certificate": (opaque({"tls.key": "k"}), OwnershipConflict, "type Opaque with tls.key"),
    "another anchor's": (issued(by_another=True), CertificateError, "signed by the trust anchor"),
    "another key": (issued(another_key=True), CertificateError, "tls.key to be the key"),
    "ended": (issued(ended=True), CertificateError, "an issuer that is valid now"),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_secret_that_cannot_be_the_issuer_is_refused_and_left_alone(
    unfit: str,
    cluster: Cluster,
    config: MeshConfig,
    anchor: TrustAnchor,
    store: FileKeyStore,
    namespace: str,
) -> None:
    content, error, message = UNFIT[unfit]
    cluster.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            **content(namespace, store),
            "metadata": {"name": NAME, "namespace": namespace},
        }
    )
    before = read(cluster, namespace)
    with pytest.raises(error, match=message) as caught:
        ensure_self_signed_issuer(Mesh(cluster, config), anchor, store, now())
    assert str(caught.value).startswith(f"Secret/{namespace}/{NAME}: ")
    assert read(cluster, namespace) == before
