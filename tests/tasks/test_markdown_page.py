"""Pages that both of Prefect's UIs can show in full; `test_ui.py` checks them in a browser."""

from __future__ import annotations

import pytest

from prefect_linkerd.tasks.markdown_page import fit_to_ui

PROSE = "what has to be said about it takes more than a line in the older of the two UIs. " * 2
NARROW = "| a | b |\n|---|:--|\n| 1 | 2 |"

PAGES = {
    "a table that fits": (f"# Page\n\n{NARROW}\n\nend\n", f"# Page\n\n{NARROW}\n\nend\n"),
    "two columns": (
        f"| | why |\n|---|---|\n| one | {PROSE}|\n| two | `x \\| y` |\n",
        f"- one: {PROSE.strip()}\n- two: `x | y`\n",
    ),
    "more columns, and an empty cell": (
        f"# Plan\n\n| phase | before | does | |\n|---|---|---|---|\n| trust | | {PROSE}| ok |\nend",
        f"# Plan\n\n- **trust**\n  - does: {PROSE.strip()}\n  - ok\nend",
    ),
    "an address is not shown": (
        f"| a | b |\n|---|---|\n| [x](https://example.com/{'y' * 200}) | z |",
        f"| a | b |\n|---|---|\n| [x](https://example.com/{'y' * 200}) | z |",
    ),
    "no table": ("| a line of its own\n\ntext | text", "| a line of its own\n\ntext | text"),
    "code in a link": ("see [`l5d-x`](https://a) and `b`", "see [l5d-x](https://a) and `b`"),
}


@pytest.mark.parametrize(("page", "shown"), PAGES.values(), ids=PAGES)
def test_what_is_too_wide_for_a_table_becomes_a_list(page: str, shown: str) -> None:
    assert fit_to_ui(page) == shown
