"""The picture of the rooms matches the contracts."""

from __future__ import annotations

from tools.rooms_picture import PAGE, with_picture


def test_the_picture_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert "mesh/checks/" in page
    assert with_picture(page) == page
