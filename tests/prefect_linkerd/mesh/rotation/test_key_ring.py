"""The keys of two anchors while one replaces the other: both are kept at every moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.identity.trust_anchor import ClusterKeyStore, FileKeyStore, KeyStore
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.pki.certificates import KeyPair, create_trust_anchor, fingerprints
from prefect_linkerd.mesh.rotation.key_ring import KeyRing

PASSPHRASE = SecretStr("correct horse battery staple")


def anchor() -> KeyPair:
    return create_trust_anchor("cluster.local", timedelta(days=30), datetime.now(UTC))


def fp(pair: KeyPair) -> str:
    return next(iter(fingerprints(pair.certificate, "anchor")))


class Died(Exception):
    pass


class Dying:
    """A key store that dies after `left` writes, counted over all its places."""

    def __init__(self, store: KeyStore, left: list[int]) -> None:
        self._store = store
        self._left = left
        self.where = store.where

    def _count(self) -> None:
        self._left[0] -= 1
        if self._left[0] < 0:
            raise Died

    def load(self) -> KeyPair | None:
        return self._store.load()

    def store_once(self, pair: KeyPair) -> None:
        self._count()
        self._store.store_once(pair)

    def replace(self, pair: KeyPair) -> None:
        self._count()
        self._store.replace(pair)

    def remove(self) -> None:
        self._count()
        self._store.remove()

    def beside(self, mark: str) -> KeyStore:
        return Dying(self._store.beside(mark), self._left)


@pytest.fixture(params=["file", "cluster"])
def store(request: pytest.FixtureRequest, tmp_path: Path, cluster: Cluster, namespace: str) -> Any:
    if request.param == "file":
        return FileKeyStore(tmp_path / "keys/anchor.pem", PASSPHRASE)
    return ClusterKeyStore(cluster, namespace)


def kept(store: KeyStore) -> set[str]:
    ring = KeyRing(store)
    pairs = [place.load() for place in (ring.current, ring.next, ring.previous)]
    return {fp(pair) for pair in pairs if pair is not None}


def run(store: KeyStore, writes: int, work: Callable[[KeyRing], object]) -> bool:
    """Whether the work finished before its writes ran out."""
    try:
        work(KeyRing(Dying(store, [writes])))
    except Died:
        return False
    return True


def test_no_key_is_lost_however_often_it_dies_there_and_back_again(store: KeyStore) -> None:
    old, new = anchor(), anchor()
    store.store_once(old)
    KeyRing(store).next.replace(new)
    both = {fp(old), fp(new)}
    for goal in (new, old, new):
        done = False
        for writes in range(4):
            done = run(store, writes, lambda ring, goal=goal: ring.promote(fp(goal)))
            assert kept(store) == both
            if done:
                break
        assert done
        current = store.load()
        assert current is not None
        assert fp(current) == fp(goal)
    KeyRing(store).settle(fp(new))
    assert kept(store) == {fp(new)}


def test_what_does_not_sign_is_not_settled_on(store: KeyStore) -> None:
    old, new = anchor(), anchor()
    store.store_once(old)
    ring = KeyRing(store)
    ring.next.replace(new)
    ring.settle(fp(new))
    assert kept(store) == {fp(old), fp(new)}
    ring.settle(fp(old))
    assert kept(store) == {fp(old)}


def test_a_key_that_is_nowhere_is_named_by_its_place(store: KeyStore) -> None:
    with pytest.raises(InvalidInput, match="none of the three places") as caught:
        KeyRing(store).promote(fp(anchor()))
    assert caught.value.subject == store.where


def test_a_provided_key_is_found_where_none_is_kept_and_kept_once_another_signs(
    store: KeyStore,
) -> None:
    old, new = anchor(), anchor()
    ring = KeyRing(store, lambda: old)
    assert ring.require(fp(old)) == old
    assert kept(store) == set()
    ring.next.replace(new)
    ring.promote(fp(new))
    assert kept(store) == {fp(old), fp(new)}
    ring.promote(fp(old))
    current = store.load()
    assert current is not None
    assert fp(current) == fp(old)


def test_a_provided_key_is_not_asked_for_where_the_key_is_kept(store: KeyStore) -> None:
    def gone() -> KeyPair:
        raise InvalidInput("trust_anchor.private_key_file", expected="", found="", remedy="")

    old, new = anchor(), anchor()
    store.store_once(old)
    ring = KeyRing(store, gone)
    assert ring.require(fp(old)) == old
    with pytest.raises(InvalidInput, match="private_key_file"):
        ring.find(fp(new))
    store.remove()
    ring.next.replace(new)
    ring.promote(fp(new))
    assert kept(store) == {fp(new)}


def test_another_clusters_key_is_neither_overwritten_nor_deleted(tmp_path: Path) -> None:
    ours, theirs = anchor(), replace(anchor(), cluster="theirs")
    store = FileKeyStore(tmp_path / "anchor.pem", PASSPHRASE)

    def refused(known: set[str], cluster: str = "ours") -> str:
        with pytest.raises(InvalidInput, match="share_anchor") as caught:
            KeyRing(store).refuse_another_clusters(known, cluster)
        assert caught.value.subject.startswith(store.where)
        return caught.value.found

    KeyRing(store).refuse_another_clusters({fp(ours)}, "ours")
    store.replace(theirs)
    assert refused({fp(ours)}) == "that of cluster theirs"
    # This mesh trusts it too, but still must not delete the other mesh's only key.
    assert refused({fp(ours), fp(theirs)}) == "that of cluster theirs"
    KeyRing(store).refuse_another_clusters(set(), "theirs")
    KeyRing(store, is_shared=True).refuse_another_clusters({fp(ours)}, "ours")
    # Stored before clusters were noted.
    store.replace(replace(theirs, cluster=""))
    assert refused({fp(ours)}) == "that of another mesh"
    KeyRing(store).refuse_another_clusters({fp(theirs)}, "ours")
    # A rotation of the other cluster has begun.
    store.remove()
    store.beside("next").replace(theirs)
    assert refused({fp(ours)}) == "that of cluster theirs"


def test_a_shared_anchors_old_key_stays_for_the_other_clusters(tmp_path: Path) -> None:
    old, new = anchor(), anchor()
    store = FileKeyStore(tmp_path / "anchor.pem", PASSPHRASE)
    store.store_once(old)
    ring = KeyRing(store, is_shared=True)
    ring.next.replace(new)
    ring.promote(fp(new))
    ring.settle(fp(new))
    assert kept(store) == {fp(old), fp(new)}
    assert ring.require(fp(old)) == old


def test_the_file_beside_is_as_private_as_the_file(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path / "anchor.pem", PASSPHRASE)
    store.beside("next").replace(anchor())
    found = tmp_path / "anchor.pem.next"
    assert found.stat().st_mode & 0o077 == 0
    assert "ENCRYPTED PRIVATE KEY" in found.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["anchor.pem.next"]
