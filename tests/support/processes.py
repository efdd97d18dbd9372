"""Processes as a user at a terminal starts and sees them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def terminal_environment(folder: Path) -> dict[str, str]:
    """The environment of a user who has never used Prefect, with Prefect's home in a folder."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
        "XDG_STATE_HOME": str(folder / "state"),
        "PREFECT_HOME": str(folder / "profile"),
    }


def uncopied_folder(folder: Path) -> Path:
    """A working folder that cannot be copied, as it contains a pipe."""
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    return folder


def processes_with(text: str) -> list[str]:
    """Command lines of other live processes that contain a text."""
    found: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if text in command and str(os.getpid()) != folder.name:
                found.append(command)
    return found
