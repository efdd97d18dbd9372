"""The Prefect server that runs for a fleet of mesh files."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_linkerd.server import own_server


def test_installations_with_different_prefects_do_not_share_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    homes = {own_server.home()}
    for other in ("3.9.0", "3.10.0"):
        monkeypatch.setattr(own_server, "version", lambda _name, other=other: other)
        homes.add(own_server.home())
    assert len(homes) == 3
    assert own_server.home() == tmp_path / "prefect-linkerd/prefect-3.10.0"
