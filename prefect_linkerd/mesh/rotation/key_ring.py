"""The private keys of a mesh's trust anchors while one replaces another.

Outside a rotation there is one key, in the place that the configuration names. A new key is stored
beside it as `next` before anything uses its certificate. Before it signs issuers, the old key is
copied to `previous`, and only then is the configured place overwritten: at every moment each key is
in one of the three places. The end of the rotation removes the other two.

If clusters share an anchor, the old key stays as `previous`: the others still sign with it until
they are rotated to the new one too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.identity.trust_anchor import (
    ANCHOR_SECRET,
    PROVIDE_KEY,
    THIS_CLUSTER,
    KeyStore,
    is_same,
)
from prefect_linkerd.mesh.pki.certificates import KeyPair, check_key_matches, fingerprints

NEXT, PREVIOUS = "next", "previous"
SECRETS_BESIDE = (f"{ANCHOR_SECRET}-{NEXT}", f"{ANCHOR_SECRET}-{PREVIOUS}")
"""The Secrets of the other two places, when keys are kept in the cluster."""


class KeyRing:
    """The three places of a mesh's anchor keys.

    Args:
        provided: the anchor and key that the configuration provides, which may be those of a mesh
            that was not bootstrapped here. Only called if a key is in none of the places.
        is_shared: whether the anchor may be another cluster's too.
    """

    def __init__(
        self,
        current: KeyStore,
        provided: Callable[[], KeyPair | None] = lambda: None,
        *,
        is_shared: bool = False,
    ) -> None:
        self._provided = provided
        self._is_shared = is_shared
        self.current = current
        self.next = current.beside(NEXT)
        self.previous = current.beside(PREVIOUS)

    def find(self, fingerprint: str) -> KeyPair | None:
        """The anchor with this fingerprint and its key, from any of the places or as provided."""
        for store in (self.current, self.next, self.previous):
            pair = store.load()
            if pair is not None and fingerprint in fingerprints(pair.certificate, store.where):
                check_key_matches(pair.certificate, pair.private_key, store.where)
                return pair
        pair = self._provided()
        if pair is not None and fingerprint in fingerprints(pair.certificate, "trust_anchor"):
            return pair
        return None

    def refuse_another_clusters(self, known: Collection[str], cluster: str) -> None:
        """Raises if a rotation would overwrite or delete the key of another cluster's anchor.

        Args:
            known: the fingerprints of the anchors that this mesh trusts or rotates to.
            cluster: the UID of this cluster.

        Raises:
            InvalidInput: names the place, and both ways out.
        """
        if self._is_shared:
            return
        for store in (self.current, self.next):
            pair = store.load()
            if pair is None or pair.cluster in (THIS_CLUSTER, cluster):
                continue
            # If no cluster was recorded, an anchor in `next` is assumed to be this cluster's.
            is_known = fingerprints(pair.certificate, store.where) & set(known)
            if pair.cluster or (store is self.current and not is_known):
                owner = f"cluster {pair.cluster}" if pair.cluster else "another mesh"
                raise InvalidInput(
                    store.where,
                    expected="a trust anchor of this cluster, or none",
                    found=f"that of {owner}",
                    remedy="Give this cluster another place for its key (trust_anchor.secret_block "
                    "or key_file), or set trust_anchor.share_anchor.",
                )

    def require(self, fingerprint: str) -> KeyPair:
        """As `find`.

        Raises:
            InvalidInput: it is in none of the places.
        """
        pair = self.find(fingerprint)
        if pair is None:
            raise InvalidInput(
                self.current.where,
                expected=f"the private key of the trust anchor {fingerprint}, there or beside it",
                found="that none of the three places has it, nor does the configuration",
                remedy=PROVIDE_KEY,
            )
        return pair

    def promote(self, fingerprint: str) -> KeyPair:
        """Makes an anchor the one that signs; keeps the previous one beside it.

        Raises:
            InvalidInput: its key is in none of the places.
        """
        pair = self.require(fingerprint)
        kept = self.current.load()
        if kept is None or not is_same(kept.certificate, pair.certificate):
            signing = kept or self._provided_if_readable()
            if signing is not None and not is_same(signing.certificate, pair.certificate):
                self._keep_beside(signing, pair)
            self.current.replace(pair)
        return pair

    def _provided_if_readable(self) -> KeyPair | None:
        """The provided anchor, or None: a file deleted since is no reason to stop halfway."""
        try:
            return self._provided()
        except InvalidInput:
            return None

    def _keep_beside(self, signing: KeyPair, taken: KeyPair) -> None:
        places = (self.previous, self.next)
        kept = {place.where: place.load() for place in places}
        for pair in kept.values():
            if pair is not None and is_same(pair.certificate, signing.certificate):
                return
        for place in places:
            pair = kept[place.where]
            if pair is None or not is_same(pair.certificate, taken.certificate):
                place.replace(signing)
                return

    def settle(self, fingerprint: str) -> None:
        """Removes every key but this anchor's; does nothing unless this anchor signs.

        A shared anchor's old key is kept, because other clusters may still need it.
        """
        signing = self.current.load()
        if signing is None:
            return
        if fingerprint in fingerprints(signing.certificate, self.current.where):
            self.next.remove()
            if not self._is_shared:
                self.previous.remove()
