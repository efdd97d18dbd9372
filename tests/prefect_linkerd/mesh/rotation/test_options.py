"""What a user may specify for a new anchor; its key is never part of it."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from prefect_linkerd.mesh.config.model import TrustAnchorConfig
from prefect_linkerd.mesh.rotation.options import NewAnchor

CERTIFICATE = "-----BEGIN CERTIFICATE-----"
KEY = "-----BEGIN PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"certificate": CERTIFICATE}, "has to sign a new issuer"),
        ({"private_key_file": "a.key"}, "without its certificate"),
        ({"private_key_block": "a"}, "without its certificate"),
        (
            {"certificate": CERTIFICATE, "private_key_file": "a", "private_key_block": "a"},
            "key is given twice",
        ),
        (
            {"certificate": CERTIFICATE, "certificate_file": "a", "private_key_file": "a"},
            "anchor is given twice",
        ),
        (
            {"certificate": CERTIFICATE + KEY, "private_key_file": "a"},
            "certificate contains a private key",
        ),
        ({"private_key": KEY}, "Extra inputs"),
    ],
)
def test_what_does_not_fit_is_refused_and_not_repeated(given: dict[str, str], text: str) -> None:
    with pytest.raises(ValidationError, match=text) as caught:
        NewAnchor.model_validate(given)
    assert KEY not in str(caught.value)


def test_a_key_from_a_block_goes_with_it_but_is_not_part_of_it() -> None:
    named = NewAnchor(certificate=CERTIFICATE, private_key_block="a")
    held = named.with_key(SecretStr(KEY))
    found = held.as_config(TrustAnchorConfig()).private_key
    assert found is not None
    assert found.get_secret_value() == KEY
    assert named.as_config(TrustAnchorConfig()).private_key is None
    assert held.model_dump() == named.model_dump()
    for text in (held.model_dump_json(), repr(held), str(held)):
        assert KEY not in text
