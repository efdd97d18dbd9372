"""docs/options.md is what the models say."""

from __future__ import annotations

from pathlib import Path

from deployments.options import options_page


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs/options.md"
    assert page.read_text() == options_page()
