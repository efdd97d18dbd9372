"""What `status` says about the last verification when it is unknown."""

from __future__ import annotations

from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_linkerd.cli.last_verification import last_verification


def test_without_a_server_nobody_knows() -> None:
    assert "PREFECT_API_URL" in last_verification("north", has_server=False)


def test_a_server_that_does_not_answer_is_no_error() -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        said = last_verification("north", has_server=True)
    assert said.startswith("unknown: your Prefect server does not answer")
