"""docs/options.md matches the models."""

from __future__ import annotations

from tests.support.repository import ROOT
from tools.options_page import options_page


def test_the_page_is_up_to_date() -> None:
    page = ROOT / "docs/options.md"
    assert page.read_text() == options_page()
