"""`deployments.register` with an unreachable server: a one-line error, and nothing is started."""

from __future__ import annotations

import asyncio

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_linkerd.deployments.register import main


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (None, "PREFECT_API_URL: expected the address of a Prefect server, found none. Set "),
        ("http://127.0.0.1:1/api", "Prefect server http://127.0.0.1:1/api: expected a response, "),
    ],
)
def test_no_server_is_one_line(
    url: str | None, found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with temporary_settings({PREFECT_API_URL: url}):
        assert asyncio.run(main([])) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"register: {found}")
    assert url is None or "found connection refused. " in line
