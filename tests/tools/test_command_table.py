"""The table of commands is complete, and exit codes mean what the page says."""

from __future__ import annotations

import re

from prefect_linkerd.cli.app import commands
from tests.support.repository import ROOT
from tools.command_table import COLUMNS, with_rows


def test_every_command_was_measured() -> None:
    text = (ROOT / "docs/commands.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    measured = {cells[0].strip("| `"): cells[1:] for cells in rows if cells[0] != "| command"}
    assert measured.keys() == commands().keys(), "run python -m tools.command_table"
    for command, (begins, *ends, interrupted) in measured.items():
        assert re.fullmatch(r"\d+\.\d s", begins), command
        for cell in ends:
            assert re.fullmatch(r"|[12] after \d+\.\d s", cell.strip(" |")), (command, cell)
        assert interrupted.strip(" |") in ("", "1", "2", "130"), command


def test_a_measured_command_gets_its_row_and_leaves_the_others() -> None:
    text = (ROOT / "docs/commands.md").read_text()
    cells = dict.fromkeys(COLUMNS, "1 after 1.0 s") | {"`--help`": "1.0 s", "Ctrl-C": "130"}
    old = set(text.splitlines())
    added = with_rows(text, [cells | {"command": "`a-new-one`"}])
    assert old < set(added.splitlines())
    [row] = set(added.splitlines()) - old
    assert row.startswith("| `a-new-one` | 1.0 s | 1 after 1.0 s |")
    again = with_rows(added, [cells | {"command": "`a-new-one`", "Ctrl-C": "1"}])
    assert len(again.splitlines()) == len(added.splitlines()) == len(text.splitlines()) + 1
