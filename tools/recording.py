"""Records the README's first ten minutes, from a clone to a rotated mesh.

python -m tools.recording FOLDER    # an empty folder; writes docs/recordings/first-run.*

Every command runs in one shell on a pseudo-terminal, in the README's order, and has to succeed or
fail as the README says. The recording is written in asciinema's format, version 2, and as text with
the times.

Source: https://docs.asciinema.org/manual/asciicast/v2/
"""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from platformdirs import user_cache_path

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs/recordings"
BLOCK = re.compile(r"```sh\n(\. ~/.*?)```", re.DOTALL)
BROKEN = "--replicas 0"
"""Marks the command that breaks the mesh: the next `verify` has to fail."""
COLUMNS, LINES = 110, 32
SHOWN = 30
"""How many of the last lines of a command's output the text has."""

Event = tuple[float, str]


@dataclass
class Recorded:
    """One command, its duration, and its output with the times."""

    command: str
    code: int = 0
    seconds: float = 0.0
    events: list[Event] = field(default_factory=list[Event])

    @property
    def text(self) -> str:
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", "".join(text for _, text in self.events))
        # A carriage return overwrites what was on the line before it.
        return "\n".join(
            line.rsplit("\r", 1)[-1] for line in plain.replace("\r\n", "\n").split("\n")
        )


class Shell:
    """A shell that keeps its variables and folder, and reports each command's exit code."""

    def __init__(self, folder: Path, hidden: dict[str, str]) -> None:
        self.begin = time.monotonic()
        self._hidden = hidden
        # A read may end in the middle of a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._terminal, theirs = pty.openpty()
        ours, ends = os.pipe()
        self._ends = os.fdopen(ours)
        # Without VIRTUAL_ENV, because uv warns about an environment other than the clone's. CI
        # replaces live tables by lines: recording each frame would be many times as long.
        environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        environment |= {"TERM": "xterm-256color", "CI": "true"}
        environment |= {"COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        self._process: subprocess.Popen[str] = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=environment,
            pass_fds=[ends],
            text=True,
        )
        os.close(theirs)
        os.close(ends)
        self._end = ends
        # Not None, because Popen was called with stdin=PIPE.
        self._commands = cast("IO[str]", self._process.stdin)

    def run(self, command: str) -> Recorded:
        """Runs a command and waits until it ends."""
        said, begin = Recorded(command), time.monotonic()
        self._commands.write(f"{{ {command}\n}} </dev/null; echo $? >&{self._end}\n")
        self._commands.flush()
        said.events.append((begin - self.begin, f"\x1b[1m$ {command}\x1b[0m\r\n"))
        while True:
            ready, _, _ = select.select([self._terminal, self._ends], [], [])
            if self._terminal in ready:
                text = self._decoder.decode(os.read(self._terminal, 65536))
                said.events.append((time.monotonic() - self.begin, self._redacted(text)))
            elif self._ends in ready:
                said.code = int(self._ends.readline())
                break
        said.seconds = time.monotonic() - begin
        return said

    def _redacted(self, text: str) -> str:
        """Replaces this machine's folders, and shortens fingerprints, which are not secret."""
        for path, name in self._hidden.items():
            text = text.replace(path, name)
        # In a table, pad to the original width, so that its columns stay aligned.
        return re.sub(
            r"\b[0-9a-f]{12,}\b(?P<cells>(?=[^\n]*│))?",
            lambda found: f"{found[0][:8]}…".ljust(
                len(found[0]) if found["cells"] is not None else 0
            ),
            text,
        )

    def close(self) -> None:
        self._commands.close()
        self._process.wait()
        os.close(self._terminal)
        self._ends.close()


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    cache = str(user_cache_path("prefect-linkerd"))
    hidden = {str(folder): "~", str(ROOT): "prefect-linkerd", cache: "~/.cache/prefect-linkerd"}
    hidden |= {str((folder / "shared").resolve()): "../shared", str(Path.home()): "~"}
    opened = Shell(folder, hidden)
    try:
        yield opened
    finally:
        opened.close()


def commands() -> list[str]:
    """Returns the commands of the README's guided minute, without their comments."""
    found = BLOCK.search((ROOT / "README.md").read_text())
    if found is None:
        raise SystemExit("README has no block that begins by sourcing the demo's file")
    lines = (re.sub(r"\s+#.*", "", line) for line in found[1].splitlines())
    return [line for line in lines if line]


def record(folder: Path) -> list[Recorded]:
    """Runs and records everything from the clone to the end of the demo.

    Raises:
        SystemExit: a command succeeded or failed contrary to the README.
    """
    said: list[Recorded] = []
    is_broken = False
    with shell(folder) as opened:
        clone = f"git clone --quiet {ROOT} prefect-linkerd && cd prefect-linkerd"
        for command in (clone, "make demo", *commands(), "make demo-down"):
            done = opened.run(command)
            said.append(done)
            print(f"{done.seconds:6.1f} s  {command}", file=sys.stderr, flush=True)
            # Only the `verify` right after the fault may fail, and it has to.
            if (done.code != 0) != (is_broken and " verify " in command):
                opened.run("make demo-down")
                raise SystemExit(f"{command}: exit code {done.code}\n{done.text[-3000:]}")
            is_broken = BROKEN in command
    said[0].command = said[0].command.replace(str(ROOT), "URL")
    said[0].events[0] = (0.0, f"\x1b[1m$ {said[0].command}\x1b[0m\r\n")
    return said


def as_cast(said: list[Recorded]) -> str:
    """Returns the recording; playback pauses for two seconds at most."""
    header = {
        "version": 2,
        "width": COLUMNS,
        "height": LINES,
        "idle_time_limit": 2,
        "title": "prefect-linkerd: from a clone to a rotated mesh",
    }
    events = [[round(at, 3), "o", text] for each in said for at, text in each.events]
    return "".join(json.dumps(line) + "\n" for line in [header, *events])


def as_page(said: list[Recorded], load: float) -> str:
    """Returns the commands with their times, exit codes and last lines of output.

    Args:
        load: the load average when the recording began.
    """
    lines = [
        "# The first ten minutes, recorded",
        "",
        "Made by `python -m tools.recording FOLDER`, which runs the README's commands and fails if",
        "one ends unexpectedly. Play [first-run.cast](first-run.cast) with `asciinema play`.",
        f"The machine had {os.cpu_count()} cores, with a load average of {load:.0f} at the "
        "beginning.",
        "",
        "| command | seconds | exit code |",
        "|---|---|---|",
        *(f"| `{each.command}` | {each.seconds:.0f} | {each.code} |" for each in said),
        "",
    ]
    for each in said:
        text = each.text.split("\n", 1)[1].strip("\n").split("\n")
        kept = ["…", *text[-SHOWN:]] if len(text) > SHOWN else text
        lines += ["```text", f"$ {each.command}", *(line.rstrip() for line in kept), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    busy = os.getloadavg()[0]
    recorded = record(Path(sys.argv[1]).resolve())
    TARGET.mkdir(exist_ok=True)
    (TARGET / "first-run.cast").write_text(as_cast(recorded))
    (TARGET / "first-run.md").write_text(as_page(recorded, busy))
