"""Private keys are read, encrypted and matched, and never shown."""

from __future__ import annotations

import base64
import copy
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import (
    ApiError,
    CertificateError,
    InvalidInput,
    MeshError,
    OwnershipConflict,
)
from prefect_linkerd.mesh.identity.issuer import ensure_self_signed_issuer
from prefect_linkerd.mesh.identity.trust_anchor import (
    ClusterKeyStore,
    FileKeyStore,
    TrustAnchor,
    tls_secret,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    KeyPair,
    check_key_matches,
    check_trust_anchor,
    create_trust_anchor,
    decrypt_private_key,
    encrypt_private_key,
    load_private_key,
    sign_issuer,
)
from tests.support.certificates import DOMAIN, NOW, YEAR, make, private_pem

VERSION = MeshConfig().linkerd
PASSPHRASE = SecretStr("correct horse battery staple")


@settings(max_examples=8, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=12, max_size=40))
def test_a_key_comes_back_from_its_encrypted_form(passphrase: str) -> None:
    key = create_trust_anchor(DOMAIN, YEAR, NOW).private_key
    encrypted = encrypt_private_key(key, SecretStr(passphrase))
    assert encrypted.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert decrypt_private_key(SecretStr(encrypted), SecretStr(passphrase), "key") == key


def test_a_key_that_is_not_encrypted_is_read_whether_or_not_a_passphrase_is_given() -> None:
    key = SecretStr(private_pem(make().key))
    assert decrypt_private_key(key, PASSPHRASE, "key") == decrypt_private_key(key, None, "key")


def test_the_form_that_openssl_ecparam_writes_is_read() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    sec1 = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()
    assert "EC PRIVATE KEY" in sec1
    assert decrypt_private_key(SecretStr(sec1), None, "key").get_secret_value() == private_pem(key)


BAD_KEYS: dict[str, tuple[Callable[[], str], SecretStr | None, str]] = {
    "no key": (lambda: "hello", None, "cannot be read"),
    "a certificate": (lambda: make().pem, None, "cannot be read"),
    "no passphrase": (lambda: private_pem(make().key, "some passphrase"), None, "cannot be read"),
    "a wrong passphrase": (
        lambda: private_pem(make().key, "some passphrase"),
        PASSPHRASE,
        "for this passphrase",
    ),
    "RSA": (lambda: private_pem(rsa.generate_private_key(65537, 3072)), None, "RSA 3072"),
    "P-521": (lambda: private_pem(ec.generate_private_key(ec.SECP521R1())), None, "secp521r1"),
    "Ed25519": (lambda: private_pem(ed25519.Ed25519PrivateKey.generate()), None, "Ed25519"),
}


@pytest.mark.parametrize("wrong", BAD_KEYS)
def test_a_wrong_key_is_refused(wrong: str) -> None:
    pem, passphrase, message = BAD_KEYS[wrong]
    with pytest.raises(InvalidInput, match=message) as caught:
        load_private_key(SecretStr(pem()), "trust_anchor.private_key", passphrase)
    assert caught.value.subject == "trust_anchor.private_key"


def test_a_key_of_another_certificate_is_refused() -> None:
    one, other = make(), make()
    check_key_matches(one.pem, one.pair.private_key, "key")
    with pytest.raises(InvalidInput, match="another one"):
        check_key_matches(one.pem, other.pair.private_key, "key")
    with pytest.raises(InvalidInput, match="another one"):
        sign_issuer(KeyPair(one.pem, other.pair.private_key), DOMAIN, YEAR, NOW)


# Nothing shows a key


@dataclass(frozen=True)
class Watched:
    """A pair, and every text that would reveal its key."""

    pair: KeyPair
    passphrase: SecretStr

    def forms(self) -> list[str]:
        pem = self.pair.private_key.get_secret_value()
        body = [line for line in pem.splitlines() if not line.startswith("-----")]
        encoded = base64.b64encode(pem.encode()).decode()
        # The head is the same in every PKCS#8 key; the middle is not.
        return [*body[1:], encoded[60:140], self.passphrase.get_secret_value()]

    def assert_unseen_in(self, text: str) -> None:
        for form in self.forms():
            assert form not in text


@pytest.fixture
def watched() -> Watched:
    return Watched(create_trust_anchor(DOMAIN, YEAR, NOW), PASSPHRASE)


def rendered(error: BaseException) -> str:
    """Everything that a crash reporter which shows each frame's variables would send."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(shown.format()) + repr(error) + str(error) + repr(error.args)


def test_a_pair_does_not_show_its_key_and_is_not_serialized(watched: Watched) -> None:
    for text in (repr(watched.pair), str(watched.pair), f"{watched.pair}", repr([watched.pair])):
        watched.assert_unseen_in(text)
        assert "CERTIFICATE" in text
    for serialize in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="never serialized"):
            serialize(watched.pair)


def test_a_secret_that_is_to_be_written_does_not_show_its_key(watched: Watched) -> None:
    pair = watched.pair
    secret = tls_secret("n", "ns", pair.certificate, pair.private_key, pair.certificate)
    watched.assert_unseen_in(repr(secret))
    assert base64.b64decode(secret["data"]["tls.key"]).decode() == (
        pair.private_key.get_secret_value()
    )


def faults(watched: Watched, folder: Path) -> dict[str, Callable[[], object]]:
    pair = watched.pair
    encrypted = SecretStr(encrypt_private_key(pair.private_key, watched.passphrase))
    kept = FileKeyStore(folder / "kept", watched.passphrase)
    kept.store_once(pair)
    garbled = SecretStr(pair.private_key.get_secret_value()[:-30])
    return {
        "wrong passphrase": lambda: decrypt_private_key(
            encrypted, SecretStr("quite another one"), "k"
        ),
        "no passphrase": lambda: decrypt_private_key(encrypted, None, "k"),
        "garbled": lambda: decrypt_private_key(garbled, watched.passphrase, "k"),
        "garbled, to be encrypted": lambda: encrypt_private_key(garbled, watched.passphrase),
        "another certificate's": lambda: check_key_matches(make().pem, pair.private_key, "k"),
        "signing for another": lambda: sign_issuer(
            KeyPair(make().pem, pair.private_key), DOMAIN, YEAR, NOW
        ),
        "signing too late": lambda: sign_issuer(pair, DOMAIN, YEAR, NOW + 2 * YEAR),
        "a key file with another passphrase": lambda: FileKeyStore(
            folder / "kept", SecretStr("quite another one")
        ).load(),
        "a key file that is taken": lambda: FileKeyStore(
            folder / "kept", watched.passphrase
        ).store_once(make().pair),
        "a key file that is a folder": lambda: FileKeyStore(folder, watched.passphrase).store_once(
            pair
        ),
        "a key in the certificate": lambda: check_trust_anchor(
            SecretStr(pair.certificate + "x").get_secret_value() + encrypted.get_secret_value(),
            DOMAIN,
            NOW,
            "k",
            version=VERSION,
        ),
    }


FAULTS = (
    "wrong passphrase",
    "no passphrase",
    "garbled",
    "garbled, to be encrypted",
    "another certificate's",
    "signing for another",
    "signing too late",
    "a key file with another passphrase",
    "a key file that is taken",
    "a key file that is a folder",
    "a key in the certificate",
)


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_shows_a_key_or_a_passphrase(fault: str, watched: Watched, tmp_path: Path) -> None:
    with pytest.raises((InvalidInput, CertificateError, OwnershipConflict)) as caught:
        faults(watched, tmp_path)[fault]()
    watched.assert_unseen_in(rendered(caught.value))


def test_every_fault_is_tried(watched: Watched, tmp_path: Path) -> None:
    assert set(faults(watched, tmp_path)) == set(FAULTS)


class Kept:
    """A store that holds one pair."""

    where = "memory"

    def __init__(self, pair: KeyPair) -> None:
        self._pair = pair

    def load(self) -> KeyPair:
        return self._pair

    def store_once(self, pair: KeyPair) -> None:
        raise AssertionError(f"{pair.certificate} is stored a second time")


def test_a_refused_write_to_the_cluster_does_not_show_the_key(
    cluster: Cluster, watched: Watched
) -> None:
    pair = watched.pair
    config = MeshConfig.model_validate({"namespaces": {"linkerd": "there-is-none"}})
    anchor = TrustAnchor(
        pair.certificate,
        pair.certificate,
        check_trust_anchor(pair.certificate, DOMAIN, NOW, "anchor", version=VERSION),
        "made",
    )
    issued: list[MeshError] = []
    with pytest.raises(ApiError, match="there-is-none") as caught:
        ClusterKeyStore(cluster, "there-is-none").store_once(pair)
    issued.append(caught.value)
    with pytest.raises(ApiError, match="there-is-none") as caught:
        ensure_self_signed_issuer(Mesh(cluster, config), anchor, Kept(pair), NOW)
    issued.append(caught.value)
    for error in issued:
        text = rendered(error)
        assert "tls.key" in text or "body" in text  # the frames that held it are among those shown
        watched.assert_unseen_in(text)
