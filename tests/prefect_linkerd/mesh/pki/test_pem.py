"""What OpenSSL writes but Go cannot read is refused, with commands that convert it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import CertificateError, InvalidInput, MeshError
from prefect_linkerd.mesh.identity.issuer import check_issuer_secret
from prefect_linkerd.mesh.identity.trust_anchor import FileKeyStore, provided_pair, tls_secret
from prefect_linkerd.mesh.pki.certificates import (
    KeyPair,
    check_issuer,
    check_key_matches,
    check_trust_anchor,
    decrypt_private_key,
    is_key_of,
    read_certificates,
)
from prefect_linkerd.mesh.pki.pem import has_explicit_curve, has_explicit_key_curve, is_key_for_go
from tests.support.advice import follows
from tests.support.certificates import DOMAIN, NOW, make, private_pem
from tests.support.shared import lacks

VERSION = MeshConfig().linkerd
PASSPHRASE = SecretStr("correct horse battery staple")
OpenSsl = Callable[[str], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an anchor made with `-param_enc explicit`, its key as SEC 1 and PKCS#8."""
    if shutil.which("openssl") is None:
        lacks("openssl")
    path = tmp_path_factory.mktemp("openssl")
    run = runner(path)
    run("ecparam -name prime256v1 -genkey -param_enc explicit -out sec1.key")
    run("pkcs8 -topk8 -nocrypt -in sec1.key -out anchor.key")
    run(
        "req -x509 -new -key sec1.key -days 100 -subj /CN=root.linkerd.cluster.local "
        "-addext keyUsage=critical,keyCertSign,cRLSign -out anchor.crt"
    )
    return path


def runner(folder: Path) -> OpenSsl:
    def run(arguments: str) -> None:
        subprocess.run(
            ["openssl", *shlex.split(arguments)], cwd=folder, check=True, capture_output=True
        )

    return run


def follow(remedy: str, folder: Path) -> None:
    """Runs the commands of a message verbatim."""
    commands = re.findall(r"openssl ([^&()]+?)(?=[.)]? *(?:&&|\)|, then|\. |$))", remedy)
    assert commands, remedy
    for command in commands:
        runner(folder)(command)


@follows(
    "Convert its key, then the certificate:",
)
def test_an_anchor_with_explicit_curve_parameters_is_refused_and_converted_by_its_remedy(
    folder: Path,
) -> None:
    with pytest.raises(InvalidInput, match="explicit curve parameters") as caught:
        check_trust_anchor(
            (folder / "anchor.crt").read_text(), DOMAIN, NOW, "anchor", version=VERSION
        )
    follow(caught.value.remedy, folder)
    converted = (folder / "named.crt").read_text()
    start = read_certificates(converted, "anchor")[0].not_before
    check_trust_anchor(converted, DOMAIN, start, "anchor", version=VERSION)
    check_key_matches(converted, SecretStr((folder / "named.key").read_text()), "key")


@follows(
    "Its certificate has to be converted as well.",
)
@pytest.mark.parametrize("name", ["sec1.key", "anchor.key"])
def test_a_key_with_explicit_curve_parameters_is_refused_and_converted_by_its_remedy(
    name: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / name, tmp_path / "anchor.key")
    key = SecretStr((tmp_path / "anchor.key").read_text())
    with pytest.raises(InvalidInput, match="explicit curve parameters") as caught:
        decrypt_private_key(key, None, "trust_anchor.private_key")
    assert caught.value.subject == "trust_anchor.private_key"
    follow(caught.value.remedy, tmp_path)
    decrypt_private_key(SecretStr((tmp_path / "named.key").read_text()), None, "key")


def test_an_issuer_with_explicit_curve_parameters_is_refused(folder: Path) -> None:
    pem, key = (folder / "anchor.crt").read_text(), SecretStr((folder / "anchor.key").read_text())
    with pytest.raises(CertificateError, match="explicit curve parameters"):
        check_issuer(pem, make().pem, DOMAIN, NOW, "Secret/linkerd/issuer", version=VERSION)
    assert is_key_of(pem, key, "issuer") is None
    # A certificate of the same key that names the curve, with the key that does not.
    runner(folder)("ec -in sec1.key -param_enc named_curve -out issuer.key")
    runner(folder)("x509 -in anchor.crt -signkey issuer.key -days 100 -out issuer.crt")
    named = (folder / "issuer.crt").read_text()
    start = read_certificates(named, "issuer")[0].not_before
    secret = tls_secret("linkerd-identity-issuer", "linkerd", named, key, named)
    with pytest.raises(CertificateError, match="one that Go cannot read"):
        check_issuer_secret(secret, MeshConfig(), named, start)
    good = SecretStr((folder / "issuer.key").read_text())
    check_issuer_secret(
        tls_secret("linkerd-identity-issuer", "linkerd", named, good, named),
        MeshConfig(),
        named,
        start,
    )


@follows("then have a certificate issued for it again.")
def test_a_signed_certificate_with_explicit_curve_parameters_is_issued_again(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "sec1.key", tmp_path / "anchor.key")
    root = make()
    (tmp_path / "ca.crt").write_text(root.pem)
    (tmp_path / "ca.key").write_text(private_pem(root.key))

    def issue(key: str) -> str:
        runner(tmp_path)(f"req -new -key {key} -subj /CN=identity.linkerd.cluster.local -out csr")
        runner(tmp_path)("x509 -req -in csr -CA ca.crt -CAkey ca.key -days 30 -out issuer.crt")
        return (tmp_path / "issuer.crt").read_text()

    with pytest.raises(CertificateError, match="explicit curve parameters") as caught:
        read_certificates(issue("anchor.key"), "issuer")
    follow(caught.value.remedy, tmp_path)
    assert read_certificates(issue("named.key"), "issuer")


@follows("Convert it: openssl x509 -in anchor.pem -out anchor.crt")
def test_a_trusted_certificate_is_refused_and_converted_by_its_remedy(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        lacks("openssl")
    made = make()
    (tmp_path / "plain").write_text(made.pem)
    runner(tmp_path)("x509 -in plain -trustout -out anchor.pem")
    trusted = (tmp_path / "anchor.pem").read_text()
    # Also beside a plain certificate: Go stops at the first block of an unknown type.
    for pem in (trusted, made.pem + trusted):
        with pytest.raises(CertificateError, match="BEGIN TRUSTED CERTIFICATE"):
            read_certificates(pem, "trust bundle")
    with pytest.raises(InvalidInput, match="BEGIN TRUSTED CERTIFICATE") as caught:
        check_trust_anchor(trusted, DOMAIN, NOW, "anchor", version=VERSION)
    follow(caught.value.remedy, tmp_path)
    converted = (tmp_path / "anchor.crt").read_text()
    assert check_trust_anchor(converted, DOMAIN, NOW, "anchor", version=VERSION).pem == made.pem


def test_what_openssl_ecparam_writes_before_a_key_hides_it_from_go() -> None:
    made = make()
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    key = SecretStr(parameters + private_pem(made.key))
    assert not is_key_for_go(key)
    assert is_key_of(made.pem, key, "issuer") is None
    assert is_key_of(made.pem, made.pair.private_key, "issuer") is True
    # A provided key is stored in the form that Go reads.
    assert decrypt_private_key(key, None, "key") == made.pair.private_key


@pytest.mark.parametrize("wrong", ["d", "p"])
def test_an_rsa_key_whose_numbers_do_not_belong_together_is_refused(wrong: str) -> None:
    key, other = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    made = make(key=key)
    assert is_key_of(made.pem, made.pair.private_key, "webhook") is True
    assert is_key_of(made.pem, SecretStr(private_pem(other)), "webhook") is False
    ours, theirs = (
        getattr(each.private_numbers(), wrong).to_bytes(256 if wrong == "d" else 128, "big")
        for each in (key, other)
    )
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert ours in der
    broken = b64encode(der.replace(ours, theirs)).decode()
    kind = "PRIVATE KEY"
    pem = SecretStr(f"-----BEGIN {kind}-----\n{broken}\n-----END {kind}-----\n")
    assert is_key_of(made.pem, pem, "webhook") is None


def test_an_encrypted_key_without_its_passphrase_is_refused(tmp_path: Path) -> None:
    made = make()
    (tmp_path / "key").write_text(private_pem(made.key, PASSPHRASE.get_secret_value()))
    anchor = {"certificate": made.pem, "private_key_file": tmp_path / "key"}
    config = MeshConfig.model_validate({"trust_anchor": anchor})
    with pytest.raises(InvalidInput, match="an encrypted one") as caught:
        provided_pair(config.trust_anchor)
    assert caught.value.remedy == "Set trust_anchor.passphrase."
    with_it = MeshConfig.model_validate({"trust_anchor": {**anchor, "passphrase": PASSPHRASE}})
    assert provided_pair(with_it.trust_anchor) == made.pair


@given(st.binary(max_size=60))
def test_what_is_no_der_has_no_explicit_curve(junk: bytes) -> None:
    assert not has_explicit_curve(junk)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_named_curve_is_found_named(curve: ec.EllipticCurve) -> None:
    key = SecretStr(private_pem(ec.generate_private_key(curve)))
    assert not has_explicit_key_curve(key)


@pytest.mark.parametrize("cluster", ["", "7a0c63b4-2f5e-4b43-9d0e-000000000000"])
def test_a_key_file_notes_its_cluster_and_is_read_with_or_without(
    cluster: str, tmp_path: Path
) -> None:
    made = make()
    store = FileKeyStore(tmp_path / "anchor.key", PASSPHRASE)
    store.store_once(KeyPair(made.pem, made.pair.private_key, cluster))
    kept = store.load()
    assert kept == made.pair
    assert kept.cluster == cluster
    # Other programs that read the file still find the certificate.
    assert read_certificates((tmp_path / "anchor.key").read_text(), "file")[0].pem == made.pem


def test_no_explicit_key_is_shown_by_its_refusal(folder: Path) -> None:
    text = (folder / "anchor.key").read_text()
    with pytest.raises(MeshError) as caught:
        decrypt_private_key(SecretStr(text), None, "key")
    assert text.splitlines()[5] not in str(caught.value)
