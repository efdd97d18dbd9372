"""What a process needs to use a Prefect server on loopback."""

from __future__ import annotations

from pathlib import Path

from prefect_linkerd.mesh.pki.certificates import read_certificates
from prefect_linkerd.server.prefect_server import PrefectServer


def test_its_clients_load_one_authority_in_place_of_the_system_s(tmp_path: Path) -> None:
    environment = PrefectServer(tmp_path / "home").environment
    named = Path(environment["PREFECT_API_SSL_CERT_FILE"])
    assert len(read_certificates(named.read_text(), "authorities")) == 1
    assert named.is_relative_to(tmp_path / "home")
