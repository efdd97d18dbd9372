"""Creates, reads and checks the certificates of a Linkerd identity chain.

A chain is a trust anchor, an intermediate issuer named `identity.linkerd.<trust domain>`, and leaf
certificates that the identity service signs. Those created here are ECDSA P-256 with SHA-256; see
`unsupported_crypto` for what else Linkerd supports.
Source: https://linkerd.io/2/tasks/generate-certificates/
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID
from pydantic import SecretStr

from prefect_linkerd.mesh.errors import CertificateError, InvalidInput
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.pki.pem import (
    has_explicit_curve,
    has_explicit_key_curve,
    is_encrypted_key,
    is_key_for_go,
    labels,
)

# Linkerd's identities are common names that may be longer than X.520's 64 characters.
warnings.filterwarnings("ignore", "Attribute's length must be", UserWarning, re.escape(__name__))

CLOCK_SKEW = timedelta(minutes=5)
"""How far clocks may differ, here and in preflight; new certificates are backdated by this."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate with its private key, in memory only.

    `certificate` is PEM; `private_key` is unencrypted PKCS#8 PEM, never shown and never pickled.
    `cluster` is the UID of the cluster whose trust anchor it is; empty if unknown.
    """

    certificate: str
    private_key: SecretStr
    cluster: str = field(default="", compare=False)

    def __reduce__(self) -> NoReturn:
        # Prefect pickles what a task returns and would write the key to its result storage.
        raise TypeError("a KeyPair holds a private key and is never serialized")


@dataclass(frozen=True)
class CertificateInfo:
    """A certificate's fields, to show or check.

    `fingerprint` is the SHA-256 of its DER form in hex; `path_length` is None without a limit;
    `key` and `signature` are names such as `ECDSA P-256` and `ECDSA SHA-256`; `pem` is the
    certificate itself, without any surrounding text.
    """

    subject: str
    common_name: str
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
        """Days until it expires; negative if it has expired."""
        return (self.not_after - now) / timedelta(days=1)

    def is_time_valid(self, now: datetime) -> bool:
        """Whether it is valid now, allowing for a clock that is ahead where it was created."""
        return self.not_before - CLOCK_SKEW <= now < self.not_after


def trust_anchor_name(trust_domain: str) -> str:
    return f"root.linkerd.{trust_domain}"


def issuer_name(trust_domain: str) -> str:
    return f"identity.linkerd.{trust_domain}"


# Making


def create_trust_anchor(trust_domain: str, lifetime: timedelta, now: datetime) -> KeyPair:
    """Creates a trust anchor: self-signed, ECDSA P-256, named after the trust domain."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(trust_anchor_name(trust_domain))
    certificate = (
        _ca_template(name, name, key.public_key(), now, now + lifetime, path_length=None)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def sign_issuer(anchor: KeyPair, trust_domain: str, lifetime: timedelta, now: datetime) -> KeyPair:
    """Creates an issuer signed by the trust anchor: pathlen 0, not valid longer than the anchor.

    Raises:
        CertificateError: the anchor is not valid now.
        InvalidInput: the key does not belong to the anchor.
    """
    parent = _one(anchor.certificate, "trust anchor")
    if not _info(parent, "trust anchor").is_time_valid(now):
        raise CertificateError(
            "trust anchor",
            expected="one that is valid now, to sign an issuer",
            found=f"that it is valid from {parent.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"to {parent.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            remedy="Check the clock. If it has expired, run rotate_anchor with recover.",
        )
    check_key_matches(anchor.certificate, anchor.private_key, "trust anchor's key")
    signer = load_private_key(anchor.private_key, "trust anchor's key")
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + lifetime, parent.not_valid_after_utc)
    name = issuer_name(trust_domain)
    certificate = (
        _ca_template(parent.subject, _name(name), key.public_key(), now, end, path_length=0)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_key_identifier(parent, signer.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _pair(certificate, key)


def _authority_key_identifier(
    parent: x509.Certificate, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
) -> x509.AuthorityKeyIdentifier:
    # Other tools hash the anchor's key identifier differently; OpenSSL requires both to be equal.
    try:
        own = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


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


AnchorKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

NAME_THE_CURVE = "openssl ec -in anchor.key -param_enc named_curve -out named.key"


def load_private_key(
    key: SecretStr, subject: str, passphrase: SecretStr | None = None
) -> AnchorKey:
    """Reads a PEM private key, encrypted or not.

    Raises:
        InvalidInput: it is not a key, its passphrase is missing or wrong, its curve is not named,
            or no Linkerd version supports its type.
    """

    def refuse(expected: str, found: str, remedy: str) -> InvalidInput:
        return InvalidInput(subject, expected=expected, found=found, remedy=remedy)

    if passphrase is None and is_encrypted_key(key):
        raise refuse(
            "a PEM private key, or the passphrase of an encrypted one",
            "an encrypted one, which cannot be read without its passphrase",
            "Set trust_anchor.passphrase.",
        )
    if has_explicit_key_curve(key):
        raise refuse(
            "an EC key that names its curve",
            "explicit curve parameters, which Go and therefore Linkerd refuse",
            f"Convert it: {NAME_THE_CURVE}. Its certificate has to be converted as well.",
        )
    try:
        # An unencrypted key must be loaded without the passphrase, even if one is given.
        loaded = _load_key(key, passphrase if is_encrypted_key(key) else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own message may quote the input.
        raise refuse(
            "a PEM private key" + (" for this passphrase" if passphrase else ""),
            "a certificate; a key cannot be read from it"
            if "CERTIFICATE" in "".join(labels(key.get_secret_value()))
            else "one that cannot be read",
            "Give the key in PEM (PKCS#8 or SEC 1), and the right passphrase if encrypted.",
        ) from None
    name = _private_key_name(loaded)
    if not isinstance(loaded, AnchorKey) or name not in (_P256, *_RSA):
        raise refuse(
            f"a key that Linkerd supports: {_P256}, or for a trust anchor {_or(_RSA)}",
            name,
            f"Create the certificate and its key again with {_P256}.",
        )
    return loaded


def _load_key(key: SecretStr, passphrase: SecretStr | None, *, tests_primes: bool = True) -> object:
    # No variable may hold a plaintext secret: a traceback may show the variables of its frames.
    return serialization.load_pem_private_key(
        key.get_secret_value().encode(),
        passphrase.get_secret_value().encode() if passphrase else None,
        unsafe_skip_rsa_key_validation=not tests_primes,
    )


def _is_sound(key: object) -> bool:
    """Whether the numbers of an RSA key are consistent; True for other keys.

    Like Go's crypto/rsa, it does not test whether they are prime: that takes 0.1 s per key, and a
    mesh has a key for each webhook.
    """
    if not isinstance(key, rsa.RSAPrivateKey):
        return True
    numbers = key.private_numbers()
    exponent = numbers.public_numbers.e * numbers.d
    return (
        min(numbers.p, numbers.q) > 1
        and numbers.p * numbers.q == numbers.public_numbers.n
        and exponent % (numbers.p - 1) == 1
        and exponent % (numbers.q - 1) == 1
    )


def encrypt_private_key(key: SecretStr, passphrase: SecretStr) -> str:
    """Returns the key as encrypted PKCS#8 PEM."""
    loaded = load_private_key(key, "private key")
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.get_secret_value().encode()),
    ).decode()


def decrypt_private_key(pem: SecretStr, passphrase: SecretStr | None, subject: str) -> SecretStr:
    """Returns the key as unencrypted PKCS#8 PEM.

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


def is_key_of(certificate_pem: str, key: SecretStr, subject: str) -> bool | None:
    """Whether a private key of any type belongs to a certificate; None if Go cannot read it."""
    if not is_key_for_go(key) or has_explicit_key_curve(key):
        return None
    try:
        loaded: Any = _load_key(key, None, tests_primes=False)
        if not _is_sound(loaded):
            return None
        return _one(certificate_pem, subject).public_key() == loaded.public_key()
    except (CertificateError, ValueError, TypeError, UnsupportedAlgorithm):
        return None


def check_key_matches(certificate_pem: str, key: SecretStr, subject: str) -> None:
    """Raises `InvalidInput` unless the private key belongs to the certificate."""
    public = _one(certificate_pem, subject).public_key()
    if load_private_key(key, subject).public_key() != public:
        raise InvalidInput(
            subject,
            expected="the private key of its certificate",
            found="another one",
            remedy="Give the key that was made with this certificate.",
        )


# Reading


def read_certificates(pem: str, subject: str) -> list[CertificateInfo]:
    """Reads the certificates of a PEM bundle, in order.

    Raises:
        CertificateError: there is none, or one cannot be read; names `subject`.
    """
    try:
        return list(_read(pem))
    except CertificateError:
        # Errors are not cached: each names the subject of this caller.
        return [_info(certificate, subject) for certificate in _load(pem, subject)]


@functools.lru_cache(maxsize=256)
def _read(pem: str) -> tuple[CertificateInfo, ...]:
    # One verification reads the same ten certificates a hundred times.
    return tuple(_info(certificate, "") for certificate in _load(pem, ""))


def fingerprints(pem: str, subject: str) -> frozenset[str]:
    """Returns the SHA-256 fingerprints of a PEM bundle's certificates."""
    return frozenset(info.fingerprint for info in read_certificates(pem, subject))


_OPENSSL_LABELS = ("TRUSTED CERTIFICATE", "X509 CERTIFICATE")


def _load(pem: str, subject: str) -> list[x509.Certificate]:
    def refuse(expected: str, found: str, remedy: str) -> CertificateError:
        return CertificateError(subject, expected=expected, found=found, remedy=remedy)

    for label in labels(pem):
        if label in _OPENSSL_LABELS:
            raise refuse(
                "-----BEGIN CERTIFICATE-----, the only form that Go reads",
                f"-----BEGIN {label}-----",
                "Convert it: openssl x509 -in anchor.pem -out anchor.crt",
            )
    try:
        loaded = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise refuse(
            "PEM certificates",
            "none that can be read",
            "Give the text between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----"
            " with both lines.",
        ) from None
    for certificate in loaded:
        if has_explicit_curve(certificate.public_bytes(serialization.Encoding.DER)):
            raise refuse(
                "a certificate whose key names its curve",
                "explicit curve parameters, which Go refuses (invalid ECDSA parameters) and "
                "proxies do not verify",
                _convert(certificate),
            )
    return loaded


def _convert(certificate: x509.Certificate) -> str:
    if certificate.subject == certificate.issuer:
        again = "openssl x509 -in anchor.crt -signkey named.key -days 3650 -out named.crt"
        return f"Convert its key, then the certificate: {NAME_THE_CURVE} && {again}"
    return f"Convert its key ({NAME_THE_CURVE}), then have a certificate issued for it again."


def _one(pem: str, subject: str) -> x509.Certificate:
    return _load(pem, subject)[0]


def _info(certificate: x509.Certificate, subject: str) -> CertificateInfo:
    try:
        constraints = _constraints(certificate)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return CertificateInfo(
            subject=certificate.subject.rfc4514_string(),
            common_name=str(names[0].value) if names else "",
            issuer=certificate.issuer.rfc4514_string(),
            serial=certificate.serial_number,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            is_ca=constraints is not None and constraints.ca,
            path_length=constraints.path_length if constraints else None,
            key=_key_name(certificate.public_key()),
            signature=_signature_name(certificate),
            dns_names=_dns_names(certificate),
            pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        )
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        # Parts of a certificate are parsed only when they are read.
        raise CertificateError(
            subject,
            expected="an X.509 certificate with a known kind of key",
            found=str(error) or type(error).__name__,
            remedy="Issue the certificate again for an ECDSA P-256 key.",
        ) from None


def _dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.get_values_for_type(x509.DNSName))


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = _constraints(certificate)
    if constraints is None or not constraints.ca:
        return False
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        # Without the extension every use is allowed (RFC 5280, 4.2.1.3).
        return True


def _key_name(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _P256 if isinstance(key.curve, ec.SECP256R1) else f"ECDSA {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return type(key).__name__.removesuffix("PublicKey")


def _private_key_name(key: object) -> str:
    if isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        return _key_name(key.public_key())
    return type(key).__name__.removesuffix("PrivateKey")


_SIGNATURES = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: "ECDSA SHA-256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: "ECDSA SHA-384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: "ECDSA SHA-512",
    SignatureAlgorithmOID.RSA_WITH_SHA256: "RSA SHA-256",
    SignatureAlgorithmOID.RSA_WITH_SHA384: "RSA SHA-384",
    SignatureAlgorithmOID.RSA_WITH_SHA512: "RSA SHA-512",
    SignatureAlgorithmOID.RSASSA_PSS: "RSA-PSS",
    SignatureAlgorithmOID.ED25519: "Ed25519",
}


def _signature_name(certificate: x509.Certificate) -> str:
    algorithm = certificate.signature_algorithm_oid
    name = _SIGNATURES.get(algorithm)
    return name or f"signature algorithm {algorithm.dotted_string}"


# Checking

_P256 = "ECDSA P-256"
_RSA = ("RSA 2048", "RSA 4096")
_BY_ECDSA, _BY_RSA = "ECDSA SHA-256", "RSA SHA-256"


@dataclass(frozen=True)
class Unsupported:
    """A part of a certificate that Linkerd does not support, and what it has to be instead."""

    part: Literal["key", "signature"]
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"its {self.part} is {self.found}, and has to be {self.wanted}"


def unsupported_crypto(
    info: CertificateInfo, version: LinkerdVersion, *, is_anchor: bool
) -> Unsupported | None:
    """Finds what a Linkerd version does not support in a certificate; None if it is supported.

    This one rule applies to every anchor and issuer, whether provided, found or created. Both have
    to be ECDSA P-256 with an ECDSA SHA-256 signature. If the version allows it, a trust anchor may
    be RSA with 2048 or 4096 bits and sign with SHA-256; the issuer's own key is P-256. The proxies'
    TLS library verifies more than that, but `linkerd check` fails on it, and not every version's
    identity service loads such an issuer.

    Sources: linkerd2 `pkg/issuercerts/issuercerts.go`: CheckCertAlgoRequirements at stable-2.11.5,
    CheckTrustAnchorAlgoRequirements and CheckIssuerCertAlgoRequirements at stable-2.12.6,
    stable-2.14.10 and edge-26.8.3; linkerd2-proxy `linkerd/rustls/src/crypto.rs` at v2.366.0.
    """
    allows_rsa = release_facts(version).allows_rsa_anchors
    keys = (_P256, *_RSA) if is_anchor and allows_rsa else (_P256,)
    if info.key not in keys:
        return Unsupported("key", info.key, _or(keys))
    signatures = (_BY_ECDSA, _BY_RSA) if allows_rsa else (_BY_ECDSA,)
    if info.key in _RSA:
        signatures = (_BY_RSA,)
    if info.signature not in signatures:
        return Unsupported("signature", info.signature, _or(signatures))
    return None


def _or(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def check_trust_anchor(
    pem: str,
    trust_domain: str,
    now: datetime,
    subject: str,
    *,
    version: LinkerdVersion,
    in_use: bool = False,
) -> CertificateInfo:
    """Checks that Linkerd can use a trust anchor, and returns its single certificate.

    It may have any name, as Linkerd ignores it; only the names that Linkerd's documentation gives
    to the anchor of another trust domain, or to an issuer, are refused.

    Args:
        in_use: whether a mesh already trusts it, so that only a rotation can replace it.

    Raises:
        InvalidInput: it is not a single CA certificate, it comes with a private key, its key or
            signature is not supported (see `unsupported_crypto`), it is for another trust domain,
            expired or not yet valid; each with what to do.
    """
    if "PRIVATE KEY-----" in pem:
        raise InvalidInput(
            subject,
            expected="only a certificate, as it is shown and stored unencrypted",
            found="a private key beside it",
            remedy="Give the certificate alone, and the key as private_key.",
        )
    try:
        loaded = _load(pem, subject)
        info = _info(loaded[0], subject)
    except CertificateError as error:
        raise InvalidInput(
            subject, expected=error.expected, found=error.found, remedy=error.remedy
        ) from None
    if len(loaded) != 1:
        raise InvalidInput(
            subject,
            expected="one certificate",
            found=f"{len(loaded)}",
            remedy=_which_one(loaded),
        )
    _refuse_unfit(loaded[0], info, now, subject, version, in_use=in_use)
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


def _which_one(chain: Sequence[x509.Certificate]) -> str:
    roots = [n for n, one in enumerate(chain, 1) if one.subject == one.issuer]
    if len(roots) != 1:
        return "Give the trust anchor alone; rotate_anchor is for trusting two at a time."
    name = chain[roots[0] - 1].subject.rfc4514_string()
    return f"Give the root alone, {name}: it is number {roots[0]} of the {len(chain)}."


def _refuse_unfit(
    certificate: x509.Certificate,
    info: CertificateInfo,
    now: datetime,
    subject: str,
    version: LinkerdVersion,
    *,
    in_use: bool,
) -> None:
    def refuse(expected: str, found: str, remedy: str) -> InvalidInput:
        again = "Run rotate_anchor, which gives the mesh a new one."
        return InvalidInput(
            subject, expected=expected, found=found, remedy=again if in_use else remedy
        )

    if not _is_authority(certificate):
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
    if wrong := unsupported_crypto(info, version, is_anchor=True):
        raise refuse(
            f"a {wrong.part} that {version} supports: {wrong.wanted}",
            wrong.found,
            "Create the trust anchor again with an ECDSA P-256 key, signed with SHA-256.",
        )
    if now >= info.not_after:
        raise refuse(
            "a certificate that is valid now",
            f"that it expired on {info.not_after:%Y-%m-%d}",
            "Give one that is valid, or let bootstrap make one.",
        )
    if now < info.not_before:
        raise InvalidInput(
            subject,
            expected="a certificate that is valid now",
            found=f"that it is not valid before {info.not_before:%Y-%m-%d %H:%M} UTC",
            remedy="Wait until then, check the clock, or give another one.",
        )


def signed_by(chain_pem: str, bundle_pem: str, subject: str) -> CertificateInfo | None:
    """Returns the anchor in a trust bundle that a certificate chains to, or None.

    Args:
        chain_pem: the certificate, followed by any intermediates between it and the bundle.
    """
    certificate, *intermediates = _load(chain_pem, subject)
    anchors = _load(bundle_pem, f"trust bundle of {subject}")
    while True:
        if anchor := _signer(certificate, anchors):
            return _info(anchor, subject)
        parent = _signer(certificate, intermediates)
        if parent is None or not _is_authority(parent):
            return None
        intermediates.remove(parent)
        certificate = parent


def authorities_of(
    certificate: CertificateInfo, candidates: Iterable[CertificateInfo]
) -> list[CertificateInfo]:
    """Returns the candidates that signed a certificate, directly or through other candidates."""
    left = {info: x509.load_pem_x509_certificate(info.pem.encode()) for info in candidates}
    found: list[CertificateInfo] = []
    signed = [x509.load_pem_x509_certificate(certificate.pem.encode())]
    while signed:
        child = signed.pop()
        for info, candidate in list(left.items()):
            if _signer(child, [candidate]):
                del left[info]
                found.append(info)
                signed.append(candidate)
    return found


def _signer(
    certificate: x509.Certificate, candidates: Sequence[x509.Certificate]
) -> x509.Certificate | None:
    for candidate in candidates:
        try:
            certificate.verify_directly_issued_by(candidate)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return candidate
    return None


def check_issuer(
    issuer_pem: str,
    bundle_pem: str,
    trust_domain: str,
    now: datetime,
    subject: str,
    *,
    version: LinkerdVersion,
) -> CertificateInfo:
    """Checks that Linkerd's identity service will load an issuer: a valid CA signed by the bundle.

    Linkerd itself ignores its name; as with an anchor, only the name that Linkerd gives to the
    issuer of another trust domain is refused.

    Source: linkerd2 `pkg/issuercerts` (VerifyAndBuildCreds) and `pkg/identity` (loadCredentials).

    Args:
        issuer_pem: the issuer, followed by any intermediates.
        bundle_pem: the mesh's trust anchors.

    Raises:
        CertificateError: what is wrong with it, and what to do.
    """
    info = read_certificates(issuer_pem, subject)[0]
    certificate = _one(issuer_pem, subject)

    def refuse(expected: str, found: str, remedy: str) -> CertificateError:
        return CertificateError(subject, expected=expected, found=found, remedy=remedy)

    again = "Delete the Secret and run bootstrap again, which issues a new one."
    if not _is_authority(certificate):
        raise refuse("a CA certificate", "one that may not sign leaves", again)
    if wrong := unsupported_crypto(info, version, is_anchor=False):
        raise refuse(f"a {wrong.part} that is {wrong.wanted}", wrong.found, again)
    if not info.is_time_valid(now):
        raise refuse(
            "an issuer that is valid now",
            f"one valid from {info.not_before:%Y-%m-%d %H:%M} to {info.not_after:%Y-%m-%d %H:%M}"
            f" UTC, and it is {now:%Y-%m-%d %H:%M}",
            "Check the clock. If it has expired, run rotate_issuer with accept_downtime; if no "
            "control plane is installed yet, delete the Secret and run bootstrap again.",
        )
    name = _ISSUER_NAME.match(info.common_name)
    if name and name["trust_domain"] != trust_domain:
        raise refuse(
            f"the issuer of trust domain {trust_domain} ({issuer_name(trust_domain)})",
            info.common_name,
            "Set trust_domain to the mesh's own, or issue it for this trust domain.",
        )
    valid_now = [
        one.pem for one in read_certificates(issuer_pem, subject) if one.is_time_valid(now)
    ]
    anchor = signed_by("".join(valid_now), bundle_pem, subject)
    if anchor is None:
        raise refuse(
            "an issuer signed by the trust anchor",
            f"one signed by {info.issuer}, but by no anchor in the trust bundle",
            "Provide the anchor that signed it (trust_anchor.certificate). In a running mesh put "
            "it back into the trust bundle, or run rotate_anchor with recover, which needs "
            "downtime.",
        )
    if not anchor.is_time_valid(now):
        raise refuse(
            "a trust anchor that is valid now",
            f"that {anchor.subject} is valid from {anchor.not_before:%Y-%m-%d %H:%M} "
            f"to {anchor.not_after:%Y-%m-%d %H:%M} UTC",
            "Check the clock. If it has expired, run rotate_anchor with recover.",
        )
    return info


# `identity.<namespace of the control plane>.<trust domain>`, as the linkerd CLI names it.
_ISSUER_NAME = re.compile(r"identity\.[^.]+\.(?P<trust_domain>.+)$")


def join_bundle(certificates: Sequence[str]) -> str:
    """Joins certificates into a trust bundle: each once, in order."""
    seen: dict[str, str] = {}
    for pem in certificates:
        for info in read_certificates(pem, "trust bundle"):
            seen.setdefault(info.fingerprint, info.pem.strip() + "\n")
    return "".join(seen.values())
