"""The private keys of a mesh's trust anchors while one takes the place of another.

Outside a rotation one key is kept, in the place that the configuration names. A new one is kept
beside it as `next` from before anything uses its certificate. When issuers are to be signed by it,
the old one is first kept as `previous`, and only then is the place itself overwritten: at every
moment each key is in one of the three places. The end of the rotation removes the other two.
"""

from __future__ import annotations

from mesh.errors import InvalidInput
from mesh.pki import KeyPair, check_key_matches, fingerprints
from mesh.trust_anchor import ANCHOR_SECRET, KeyStore, is_same

NEXT, PREVIOUS = "next", "previous"
SECRETS_BESIDE = (f"{ANCHOR_SECRET}-{NEXT}", f"{ANCHOR_SECRET}-{PREVIOUS}")
"""The Secrets of the other two places, where keys are kept in the cluster."""


class KeyRing:
    """The three places of a mesh's anchor keys."""

    def __init__(self, current: KeyStore) -> None:
        self.current = current
        self.next = current.beside(NEXT)
        self.previous = current.beside(PREVIOUS)

    def find(self, fingerprint: str) -> KeyPair | None:
        """The anchor with this fingerprint, with its key, wherever it is kept."""
        for store in (self.current, self.next, self.previous):
            pair = store.load()
            if pair is not None and fingerprint in fingerprints(pair.certificate, store.where):
                check_key_matches(pair.certificate, pair.private_key, store.where)
                return pair
        return None

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
                found="none of the three places has it",
                remedy="Bring the key, or name the place where it is kept.",
            )
        return pair

    def promote(self, fingerprint: str) -> KeyPair:
        """Makes an anchor the one that signs; the one that did is kept beside it.

        Raises:
            InvalidInput: its key is in none of the places.
        """
        pair = self.require(fingerprint)
        signing = self.current.load()
        if signing is None or not is_same(signing.certificate, pair.certificate):
            if signing is not None:
                self._keep_beside(signing, pair)
            self.current.replace(pair)
        return pair

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
        """Forgets every key but that of the anchor that signs; does nothing where it does not."""
        signing = self.current.load()
        if signing is None:
            return
        if fingerprint in fingerprints(signing.certificate, self.current.where):
            self.next.remove()
            self.previous.remove()
