"""Whether a probe sends requests while the issuer is rotated."""

from __future__ import annotations

from datetime import timedelta

from prefect_linkerd.mesh.pki.certificates import read_certificates
from prefect_linkerd.mesh.rotation.issuer import why_no_probe
from tests.support.certificates import NOW, make


def test_nothing_asks_while_no_pod_gets_a_certificate() -> None:
    issuer = read_certificates(make(ends=timedelta(hours=2)).pem, "issuer")[0]
    assert why_no_probe(issuer, NOW) == why_no_probe(None, NOW) == ""
    assert "the issuer has expired" in why_no_probe(issuer, NOW + timedelta(hours=2))
