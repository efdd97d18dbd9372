"""The certificates and keys of one sandbox: its own CA, valid for a year, on this machine only."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey


class Credentials:
    """Writes `<name>.crt` and `<name>.key` files, all signed by one CA, into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._ca = self._certificate("sandbox-ca", self._key, None, [])
        self._write("ca", self._ca, self._key)

    def issue(self, name: str, common_name: str, organization: str = "") -> None:
        """Issues a certificate for client and server authentication on this machine."""
        key = ec.generate_private_key(ec.SECP256R1())
        organizations = [organization] if organization else []
        self._write(name, self._certificate(common_name, key, self._ca, organizations), key)

    def signing_key(self, name: str) -> None:
        """Writes a bare key pair: `<name>.key` and `<name>.pub`."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(name, None, key)
        (self._folder / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def _certificate(
        self, name: str, key: Key, issuer: x509.Certificate | None, organizations: list[str]
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        subject = x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in organizations]
            + [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        if issuer is not None:
            names = [
                x509.DNSName("localhost"),
                x509.DNSName("kubernetes.default.svc"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            ]
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = (
                builder.add_extension(x509.SubjectAlternativeName(names), False)
                .add_extension(x509.ExtendedKeyUsage(usages), False)
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                    False,
                )
            )
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate | None, key: Key) -> None:
        if certificate is not None:
            pem = certificate.public_bytes(serialization.Encoding.PEM)
            (self._folder / f"{name}.crt").write_bytes(pem)
        path = self._folder / f"{name}.key"
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
