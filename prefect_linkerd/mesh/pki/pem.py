"""PEM text as Go reads it, which is stricter than OpenSSL and the library used here.

Linkerd's control plane decodes certificates and keys with Go's `encoding/pem` and `crypto/x509`;
proxies verify with rustls. Neither accepts OpenSSL's label `TRUSTED CERTIFICATE`, nor keys whose
curve is given by explicit parameters instead of its name.
Sources: linkerd2 `pkg/tls/codec.go`; RFC 5480, section 2.1.1 (only `namedCurve` is allowed).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from pydantic import SecretStr

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_KEY_LABELS = ("PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY")

_SEQUENCE, _INTEGER, _OCTETS, _OID = 0x30, 0x02, 0x04, 0x06
_CONTEXT_0 = 0xA0
_EC_PUBLIC_KEY = bytes.fromhex("2a8648ce3d0201")


def labels(pem: str) -> list[str]:
    """Returns the labels of a PEM text's blocks, in order.

    Example:
        >>> labels("-----BEGIN CERTIFICATE-----\\nAA==\\n-----END CERTIFICATE-----")
        ['CERTIFICATE']
    """
    return [match[1] for match in _BLOCK.finditer(pem)]


def is_encrypted_key(key: SecretStr) -> bool:
    """Whether a private key is encrypted, as PKCS#8 or in OpenSSL's older format."""
    text = key.get_secret_value()
    return "ENCRYPTED PRIVATE KEY-----" in text or "Proc-Type: 4,ENCRYPTED" in text


def is_key_for_go(key: SecretStr) -> bool:
    """Whether Go finds the key: it reads only the first block, and accepts three labels."""
    found = _BLOCK.search(key.get_secret_value())
    return found is not None and found[1] in _KEY_LABELS


def has_explicit_curve(certificate: bytes) -> bool:
    """Whether a certificate's key (DER) has explicit curve parameters instead of a named curve."""
    try:
        _, (to_be_signed, *_) = _only(certificate)
        parts = list(_elements(to_be_signed[1]))
        # The version is optional and comes first; the key is the sixth element after it.
        key = parts[6 if parts[0][0] == _CONTEXT_0 else 5][1]
        return _is_explicit(next(_elements(key))[1])
    except (ValueError, IndexError, StopIteration):
        return False


def has_explicit_key_curve(key: SecretStr) -> bool:
    """The same for an unencrypted private key (PEM): PKCS#8 or SEC 1.

    Never raises, so that no traceback shows the key.
    """
    for match in _BLOCK.finditer(key.get_secret_value()):
        if match[1] not in _KEY_LABELS:
            continue
        try:
            _, parts = _only(base64.b64decode("".join(match[2].split()), validate=True))
            if match[1] == "PRIVATE KEY":
                if _is_explicit(parts[1][1]):
                    return True
                _, parts = _only(parts[2][1])
            # SEC 1, where the parameters have tag 0.
            for tag, content in parts:
                if tag == _CONTEXT_0 and next(_elements(content))[0] != _OID:
                    return True
        except (ValueError, IndexError, StopIteration, binascii.Error):
            continue
    return False


def _is_explicit(algorithm: bytes) -> bool:
    """Whether an AlgorithmIdentifier is for an EC key without a named curve."""
    parts = list(_elements(algorithm))
    if parts[0] != (_OID, _EC_PUBLIC_KEY):
        return False
    return len(parts) < 2 or parts[1][0] != _OID


def _only(der: bytes) -> tuple[int, list[tuple[int, bytes]]]:
    """Returns the tag of the only element in some DER, and the elements inside it."""
    tag, content = next(_elements(der))
    return tag, list(_elements(content))


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields tag and content of each element.

    Raises:
        ValueError: it is not DER.
    """
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size])
            at += size
        if at + length > len(der):
            raise ValueError("cut off")
        yield tag, der[at : at + length]
        at += length
