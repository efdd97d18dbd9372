"""PEM text as Go reads it, which is stricter than OpenSSL and than the library used here.

Linkerd's control plane decodes certificates and keys by Go's `encoding/pem` and `crypto/x509`, and
proxies verify by rustls. Neither knows OpenSSL's own label `TRUSTED CERTIFICATE`, nor keys whose
curve is written out as parameters instead of named.
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
    """What the blocks of a PEM text say that they are, in order.

    Example:
        >>> labels("-----BEGIN CERTIFICATE-----\\nAA==\\n-----END CERTIFICATE-----")
        ['CERTIFICATE']
    """
    return [match[1] for match in _BLOCK.finditer(pem)]


def is_encrypted_key(key: SecretStr) -> bool:
    """Whether a private key needs a passphrase: PKCS#8, or OpenSSL's older form."""
    text = key.get_secret_value()
    return "ENCRYPTED PRIVATE KEY-----" in text or "Proc-Type: 4,ENCRYPTED" in text


def is_key_for_go(key: SecretStr) -> bool:
    """Whether Go finds the key: it looks at the first block, and knows three labels."""
    found = _BLOCK.search(key.get_secret_value())
    return found is not None and found[1] in _KEY_LABELS


def has_explicit_curve(certificate: bytes) -> bool:
    """Whether the key of a certificate (DER) has a curve that is written out, not named."""
    try:
        _, (to_be_signed, *_) = _only(certificate)
        parts = list(_elements(to_be_signed[1]))
        # The version comes first where there is one; the key is the sixth after it.
        key = parts[6 if parts[0][0] == _CONTEXT_0 else 5][1]
        return _is_explicit(next(_elements(key))[1])
    except (ValueError, IndexError, StopIteration):
        return False


def has_explicit_key_curve(key: SecretStr) -> bool:
    """The same of an unencrypted private key (PEM): PKCS#8 or SEC 1.

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
            # Of SEC 1, where the parameters have the tag 0.
            for tag, content in parts:
                if tag == _CONTEXT_0 and next(_elements(content))[0] != _OID:
                    return True
        except (ValueError, IndexError, StopIteration, binascii.Error):
            continue
    return False


def _is_explicit(algorithm: bytes) -> bool:
    """Whether an AlgorithmIdentifier is that of an EC key without the name of its curve."""
    parts = list(_elements(algorithm))
    if parts[0] != (_OID, _EC_PUBLIC_KEY):
        return False
    return len(parts) < 2 or parts[1][0] != _OID


def _only(der: bytes) -> tuple[int, list[tuple[int, bytes]]]:
    """The tag of the one element of some DER, and the elements in it."""
    tag, content = next(_elements(der))
    return tag, list(_elements(content))


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element.

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
