"""Certificates of a Linkerd identity chain: making them, reading them, checking them.

Linkerd wants ECDSA P-256 with SHA-256 throughout: a self-signed trust anchor, an intermediate
issuer named `identity.linkerd.<trust domain>`, and leaf certificates that the identity service
signs. Source: https://linkerd.io/2/tasks/generate-certificates/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from mesh.errors import CertificateError, InvalidInput

CLOCK_SKEW = timedelta(minutes=1)
"""How far a new certificate's start lies in the past, for clocks that are behind."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate with its private key, in memory only.

    `certificate` is PEM; `private_key` is unencrypted PKCS#8 PEM and never shown.
    """

    certificate: str
    private_key: SecretStr


@dataclass(frozen=True)
class CertificateInfo:
    """What a certificate says, ready to be shown or judged.

    `fingerprint` is the SHA-256 of its DER form in hex; `path_length` is None where there is no
    limit; `key` and `signature` are names such as `ECDSA P-256` and `ECDSA SHA-256`.
    """

    subject: str
    issuer: str
    serial: int
    not_before: datetime
    not_after: datetime
    fingerprint: str
    is_ca: bool
    path_length: int | None
    key: str
    signature: str
    dns_names: tuple[str, ...] = ()
    pem: str = field(default="", repr=False)

    def days_left(self, now: datetime) -> float:
        """Days until it ends; negative once it has."""
        return (self.not_after - now) / timedelta(days=1)

    def is_time_valid(self, now: datetime) -> bool:
        return self.not_before <= now < self.not_after

    @property
    def common_name(self) -> str:
        name = x509.Name.from_rfc4514_string(self.subject)
        values = name.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(values[0].value) if values else ""


def trust_anchor_name(trust_domain: str) -> str:
    return f"root.linkerd.{trust_domain}"


def issuer_name(trust_domain: str) -> str:
    return f"identity.linkerd.{trust_domain}"


# Making


def create_trust_anchor(trust_domain: str, lifetime: timedelta, now: datetime) -> KeyPair:
    """A new root of trust: self-signed, ECDSA P-256, named by the trust domain."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(trust_anchor_name(trust_domain))
    certificate = (
        _ca_template(name, name, key.public_key(), now, now + lifetime, path_length=None)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def sign_issuer(anchor: KeyPair, trust_domain: str, lifetime: timedelta, now: datetime) -> KeyPair:
    """A new issuer, signed by the trust anchor: pathlen 0, and no longer than the anchor lives."""
    parent = _one(anchor.certificate, "trust anchor")
    signer = load_private_key(anchor.private_key, "trust anchor's key")
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + lifetime, parent.not_valid_after_utc)
    name = issuer_name(trust_domain)
    certificate = (
        _ca_template(parent.subject, _name(name), key.public_key(), now, end, path_length=0)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _pair(certificate, key)


def _ca_template(
    issuer: x509.Name,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
    *,
    path_length: int | None,
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM).decode(), SecretStr(private.decode())
    )


# Keys


def load_private_key(
    key: SecretStr, subject: str, passphrase: SecretStr | None = None
) -> ec.EllipticCurvePrivateKey:
    """Reads a PEM private key, encrypted or not.

    Raises:
        InvalidInput: it is no key, its passphrase is missing or wrong, or it is not ECDSA P-256.
    """
    secret = passphrase.get_secret_value().encode() if passphrase else None
    try:
        try:
            loaded = serialization.load_pem_private_key(key.get_secret_value().encode(), secret)
        except TypeError:
            # A passphrase was given for a key that is not encrypted, or none for one that is.
            if secret is None:
                raise
            loaded = serialization.load_pem_private_key(key.get_secret_value().encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own message may quote the input.
        raise InvalidInput(
            subject,
            expected="a PEM private key" + (" for this passphrase" if passphrase else ""),
            found="one that cannot be read",
            remedy="Give the key in PEM (PKCS#8 or SEC 1), and the right passphrase if encrypted.",
        ) from None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not _is_p256(loaded.public_key()):
        raise InvalidInput(
            subject,
            expected="an ECDSA P-256 key, the only one Linkerd's proxies verify",
            found=_key_name(loaded.public_key()),
            remedy="Make a new trust anchor with an ECDSA P-256 key.",
        )
    return loaded


def encrypt_private_key(key: SecretStr, passphrase: SecretStr) -> str:
    """The key as encrypted PKCS#8 PEM."""
    loaded = load_private_key(key, "private key")
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.get_secret_value().encode()),
    ).decode()


def decrypt_private_key(pem: SecretStr, passphrase: SecretStr | None, subject: str) -> SecretStr:
    """The key as unencrypted PKCS#8 PEM.

    Raises:
        InvalidInput: as `load_private_key`.
    """
    loaded = load_private_key(pem, subject, passphrase)
    private = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return SecretStr(private.decode())


def key_matches(certificate_pem: str, key: SecretStr, subject: str) -> bool:
    """Whether a private key belongs to a certificate."""
    public = _one(certificate_pem, subject).public_key()
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return load_private_key(key, subject).public_key().public_bytes(*form) == public.public_bytes(
        *form
    )


def check_key_matches(certificate_pem: str, key: SecretStr, subject: str) -> None:
    """Raises `InvalidInput` unless the private key belongs to the certificate."""
    if not key_matches(certificate_pem, key, subject):
        raise InvalidInput(
            subject,
            expected="the private key of its certificate",
            found="another one",
            remedy="Give the key that was made with this certificate.",
        )


# Reading


def read_certificates(pem: str, subject: str) -> list[CertificateInfo]:
    """The certificates of a PEM bundle, in order.

    Raises:
        CertificateError: there is none, or one cannot be read; names `subject`.
    """
    return [_info(certificate) for certificate in _load(pem, subject)]


def fingerprints(pem: str, subject: str) -> frozenset[str]:
    """The SHA-256 fingerprints of a PEM bundle's certificates."""
    return frozenset(info.fingerprint for info in read_certificates(pem, subject))


def _load(pem: str, subject: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise CertificateError(
            subject,
            expected="PEM certificates",
            found="none that can be read",
            remedy="Give the text between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----"
            " with both lines.",
        ) from None


def _one(pem: str, subject: str) -> x509.Certificate:
    return _load(pem, subject)[0]


def _info(certificate: x509.Certificate) -> CertificateInfo:
    constraints = _constraints(certificate)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns_names = tuple(names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        dns_names = ()
    return CertificateInfo(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        is_ca=constraints is not None and constraints.ca,
        path_length=constraints.path_length if constraints else None,
        key=_key_name(certificate.public_key()),
        signature=_signature_name(certificate),
        dns_names=dns_names,
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
    )


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        # Without the extension every use is allowed (RFC 5280, 4.2.1.3).
        return True


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def _key_name(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ECDSA P-256" if _is_p256(key) else f"ECDSA {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return type(key).__name__.removeprefix("_").removesuffix("PublicKey")


def _signature_name(certificate: x509.Certificate) -> str:
    algorithm = certificate.signature_hash_algorithm
    family = "ECDSA" if "ecdsa" in certificate.signature_algorithm_oid._name else "RSA"
    return f"{family} {algorithm.name.upper().replace('SHA', 'SHA-')}" if algorithm else "none"


# Checking


def check_trust_anchor(pem: str, trust_domain: str, now: datetime, subject: str) -> CertificateInfo:
    """The one certificate of a trust anchor that Linkerd can use.

    Its name is free, as Linkerd does not look at it; only the name that Linkerd's documentation
    gives an anchor of another trust domain is refused.

    Raises:
        InvalidInput: it is no single CA certificate, RSA or of another curve, of another trust
            domain, expired or not yet valid; each with what to do.
    """
    try:
        loaded = _load(pem, subject)
    except CertificateError as error:
        raise InvalidInput(
            subject, expected=error.expected, found=error.found, remedy=error.remedy
        ) from None
    if len(loaded) != 1:
        raise InvalidInput(
            subject,
            expected="one certificate",
            found=f"{len(loaded)}",
            remedy="Give the trust anchor alone; rotate_anchor is for trusting two at a time.",
        )
    certificate, info = loaded[0], _info(loaded[0])
    _refuse_unfit(certificate, info, now, subject)
    expected = trust_anchor_name(trust_domain)
    name = info.common_name
    if name.startswith("root.linkerd.") and name != expected:
        raise InvalidInput(
            subject,
            expected=f"the trust domain {trust_domain} (common name {expected})",
            found=f"common name {name}",
            remedy="Give the anchor of this trust domain, or set trust_domain to the anchor's.",
        )
    if name.startswith("identity.linkerd."):
        raise InvalidInput(
            subject,
            expected="a trust anchor",
            found=f"an issuer ({name})",
            remedy="Give the root that signed this issuer.",
        )
    return info


def _refuse_unfit(
    certificate: x509.Certificate, info: CertificateInfo, now: datetime, subject: str
) -> None:
    def refuse(expected: str, found: str, remedy: str) -> InvalidInput:
        return InvalidInput(subject, expected=expected, found=found, remedy=remedy)

    if not info.is_ca or not _may_sign(certificate):
        raise refuse(
            "a CA certificate (basicConstraints CA, keyUsage keyCertSign)",
            "one that may not sign others",
            "Make it with `step certificate create --profile root-ca`, or let bootstrap make one.",
        )
    if info.path_length == 0:
        raise refuse(
            "an anchor that may sign an issuer, itself a CA",
            "pathlen 0",
            "Make it without a path length limit, or with 1.",
        )
    if info.key != "ECDSA P-256":
        raise refuse(
            "an ECDSA P-256 key, the only one Linkerd's proxies verify",
            info.key,
            "Make a new trust anchor with an ECDSA P-256 key.",
        )
    if info.signature != "ECDSA SHA-256":
        raise refuse(
            "an ECDSA SHA-256 signature",
            info.signature,
            "Make the anchor anew, signed with SHA-256.",
        )
    if now >= info.not_after:
        raise refuse(
            "a certificate that is valid now",
            f"that it expired on {info.not_after:%Y-%m-%d}",
            "Give one that is valid, or let bootstrap make one.",
        )
    if now < info.not_before:
        raise refuse(
            "a certificate that is valid now",
            f"that it is not valid before {info.not_before:%Y-%m-%d %H:%M} UTC",
            "Wait until then, check the clock, or give another one.",
        )


def signed_by(certificate_pem: str, bundle_pem: str, subject: str) -> CertificateInfo | None:
    """The member of a trust bundle that signed a certificate, or None."""
    certificate = _one(certificate_pem, subject)
    for candidate in _load(bundle_pem, f"trust bundle of {subject}"):
        try:
            certificate.verify_directly_issued_by(candidate)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return _info(candidate)
    return None


def check_issuer(
    issuer_pem: str, bundle_pem: str, trust_domain: str, now: datetime, subject: str
) -> CertificateInfo:
    """An issuer that Linkerd's identity service will load: a valid CA that the bundle signed.

    Source: linkerd2 `pkg/healthcheck`, checks l5d-identity-issuer-cert-*.

    Raises:
        CertificateError: what is wrong with it, and what to do.
    """
    info = read_certificates(issuer_pem, subject)[0]
    certificate = _one(issuer_pem, subject)

    def refuse(expected: str, found: str, remedy: str) -> CertificateError:
        return CertificateError(subject, expected=expected, found=found, remedy=remedy)

    again = "Run rotate_issuer, or delete the Secret and run bootstrap again."
    if not info.is_ca or not _may_sign(certificate):
        raise refuse("a CA certificate", "one that may not sign leaves", again)
    if info.key != "ECDSA P-256":
        raise refuse("an ECDSA P-256 key", info.key, again)
    if not info.is_time_valid(now):
        raise refuse(
            "an issuer that is valid now",
            f"one valid from {info.not_before:%Y-%m-%d %H:%M} to {info.not_after:%Y-%m-%d %H:%M}",
            again,
        )
    if issuer_name(trust_domain) not in (info.common_name, *info.dns_names):
        raise refuse(
            f"the name {issuer_name(trust_domain)}",
            info.common_name,
            "Set trust_domain to the mesh's own, or issue it for this trust domain.",
        )
    anchor = signed_by(issuer_pem, bundle_pem, subject)
    if anchor is None:
        raise refuse(
            "an issuer signed by the trust anchor",
            f"one signed by {info.issuer}, which the trust bundle does not have",
            "Bring the anchor that signed it, or issue a new one.",
        )
    if not anchor.is_time_valid(now):
        raise refuse(
            "a trust anchor that is valid now",
            f"that {anchor.subject} ended on {anchor.not_after:%Y-%m-%d}",
            "Run rotate_anchor.",
        )
    return info


def join_bundle(certificates: Sequence[str]) -> str:
    """A trust bundle of these certificates, each once, in order."""
    seen: dict[str, str] = {}
    for pem in certificates:
        for info in read_certificates(pem, "trust bundle"):
            seen.setdefault(info.fingerprint, info.pem.strip() + "\n")
    return "".join(seen.values())
