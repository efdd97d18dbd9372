"""Certificates for tests, each wrong in one way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from prefect_linkerd.mesh.pki.certificates import KeyPair

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
DOMAIN = "cluster.local"
YEAR = timedelta(days=365)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Made:
    """A certificate and its key, as objects and as text."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def pair(self) -> KeyPair:
        return KeyPair(self.pem, SecretStr(private_pem(self.key)))


def private_pem(key: Key, passphrase: str | None = None) -> str:
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode())
        if passphrase
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    ).decode()


def parsed(pair: KeyPair) -> Made:
    key = serialization.load_pem_private_key(pair.private_key.get_secret_value().encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Made(x509.load_pem_x509_certificate(pair.certificate.encode()), key)


def _common_name(name: str) -> x509.NameAttribute:
    # X.520 allows 64 characters; a proxy's name in a certificate from identity may be longer.
    return x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=len(name) <= 64)


def make(
    name: str = "root.linkerd.cluster.local",
    *,
    key: Key | None = None,
    signer: Made | None = None,
    is_ca: bool | None = True,
    path_length: int | None = None,
    may_sign: bool | None = True,
    starts: timedelta = timedelta(days=-1),
    ends: timedelta = YEAR,
    hash_algorithm: hashes.HashAlgorithm | None = hashes.SHA256(),  # noqa: B008 immutable
    dns_names: tuple[str, ...] = (),
    key_identifier: bytes | None = None,
) -> Made:
    """Creates a certificate, self-signed if there is no signer; `None` omits an extension."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([_common_name(name)] if name else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + starts)
        .not_valid_after(NOW + ends)
    )
    if is_ca is not None:
        builder = builder.add_extension(
            x509.BasicConstraints(is_ca, path_length if is_ca else None), critical=True
        )
    if may_sign is not None:
        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "crl_sign",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        builder = builder.add_extension(
            x509.KeyUsage(digital_signature=not may_sign, key_cert_sign=may_sign, **usage),
            critical=True,
        )
    if dns_names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(each) for each in dns_names]), critical=False
        )
    if key_identifier is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(key_identifier), critical=False)
    if signer is not None:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
            critical=False,
        )
    return Made(builder.sign(signer.key if signer else key, hash_algorithm), key)


ONE_ANCHOR, OTHER_ANCHOR = make().pem, make().pem
