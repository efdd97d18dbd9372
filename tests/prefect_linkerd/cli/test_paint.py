"""Colour where a terminal supports it and the user allows it, and tables that fit."""

from __future__ import annotations

import io

import pytest

from prefect_linkerd.cli.paint import painted, painted_checks, table
from prefect_linkerd.cli.results import next_step, result_text
from prefect_linkerd.mesh.uninstall.plan import Gone, UninstallPlan


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize(
    ("stream", "environment", "is_coloured"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour(
    stream: io.StringIO,
    environment: dict[str, str],
    is_coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert painted("done", "green", stream) == ("\x1b[32mdone\x1b[0m" if is_coloured else "done")


def test_only_the_mark_of_a_check_is_coloured() -> None:
    text = "√ it holds\n    \u00d7 not a mark\n\u00d7 it fails\n--\n"
    assert painted_checks(text, io.StringIO()) == text
    shown = painted_checks(text, Terminal())
    assert shown == text.replace("√", "\x1b[32m√\x1b[0m").replace(
        "\n\u00d7", "\n\x1b[31m\u00d7\x1b[0m"
    )


def test_a_table_fits_the_terminal_and_says_everything() -> None:
    rows = [{"what": "app", "why": "a long reason that is told in full"}]
    assert table(rows) == "what  why\napp   a long reason that is told in full\n"
    narrow = table(rows, 24)
    assert max(map(len, narrow.splitlines())) <= 24
    assert " ".join(narrow.split()) == "what why app a long reason that is told in full"
    assert table([]) == ""


def test_success_ends_with_a_line_and_what_comes_next() -> None:
    plan = UninstallPlan("north", (Gone("release", "Helm release a/b"),), (), (), "file k")
    said = result_text("north", "Completed", "", plan, dry=False)
    assert said.startswith("mesh north is uninstalled: 1 things are gone, 0 stay\n")
    assert "file k" in said
    assert "## To be removed, in this order" in result_text(
        "north", "Completed", "", plan, dry=True
    )
    assert next_step("bootstrap", "m.yaml", dry=False) == "Next: prefect-linkerd verify m.yaml"
    assert "--dry-run" in next_step("upgrade", "m.yaml", dry=True)
    assert next_step("smoke_test", "", dry=False) == ""
