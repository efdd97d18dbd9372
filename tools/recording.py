"""Records README's first ten minutes as they are: from a clone to a rotated mesh.

python -m tools.recording FOLDER    # an empty folder; writes docs/recordings/first-run.*

Every command is run in one shell behind a terminal, in the order of the README, and has to end as
it says. The recording is in asciinema's format, version 2, and as text with the times.

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
"""What breaks the mesh: the next `verify` has to fail."""
COLUMNS, LINES = 110, 32
SHOWN = 30
"""Lines of one command's end that the text has."""

Event = tuple[float, str]


@dataclass
class Recorded:
    """One command, how long it took, and what it said when."""

    command: str
    code: int = 0
    seconds: float = 0.0
    events: list[Event] = field(default_factory=list[Event])

    @property
    def text(self) -> str:
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", "".join(text for _, text in self.events))
        # What a line was before the cursor went back to its beginning is gone.
        return "\n".join(
            line.rsplit("\r", 1)[-1] for line in plain.replace("\r\n", "\n").split("\n")
        )


class Shell:
    """A shell that keeps its variables and folder, and says after each command how it ended."""

    def __init__(self, folder: Path, hidden: dict[str, str]) -> None:
        self.begin = time.monotonic()
        self._hidden = hidden
        # A read may end within a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._terminal, theirs = pty.openpty()
        ours, ends = os.pipe()
        self._ends = os.fdopen(ours)
        # Lines in place of live tables: a recording of each frame would be many times as long.
        environment = os.environ | {"TERM": "xterm-256color", "CI": "true"}
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
        # By argument of Popen; the type has it optional.
        self._commands = cast("IO[str]", self._process.stdin)

    def run(self, command: str) -> Recorded:
        """Runs a command to its end."""
        said, begin = Recorded(command), time.monotonic()
        self._commands.write(f"{{ {command}\n}} </dev/null; echo $? >&{self._end}\n")
        self._commands.flush()
        said.events.append((begin - self.begin, f"\x1b[1m$ {command}\x1b[0m\r\n"))
        while True:
            ready, _, _ = select.select([self._terminal, self._ends], [], [])
            if self._terminal in ready:
                text = self._decoder.decode(os.read(self._terminal, 65536))
                said.events.append((time.monotonic() - self.begin, self._without(text)))
            elif self._ends in ready:
                said.code = int(self._ends.readline())
                break
        said.seconds = time.monotonic() - begin
        return said

    def _without(self, text: str) -> str:
        """What is of this machine alone, and no secret either: folders, and whole fingerprints."""
        for path, name in self._hidden.items():
            text = text.replace(path, name)
        # As wide as before, so that tables stay in line.
        return re.sub(
            r"\b[0-9a-f]{12,}\b", lambda found: f"{found[0][:8]}…".ljust(len(found[0])), text
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
    """Those of README's guided minute, without their comments."""
    found = BLOCK.search((ROOT / "README.md").read_text())
    if found is None:
        raise SystemExit("README has no block that begins with the demo's file")
    lines = (re.sub(r"\s+#.*", "", line) for line in found[1].splitlines())
    return [line for line in lines if line]


def record(folder: Path) -> list[Recorded]:
    """From a clone to the end of the demo.

    Raises:
        SystemExit: a command ended otherwise than README says.
    """
    said: list[Recorded] = []
    is_broken = False
    with shell(folder) as opened:
        clone = f"git clone --quiet {ROOT} prefect-linkerd && cd prefect-linkerd"
        for command in (clone, "make demo", *commands(), "make demo-down"):
            done = opened.run(command)
            said.append(done)
            print(f"{done.seconds:6.1f} s  {command}", file=sys.stderr, flush=True)
            # Only the look right after the fault may fail, and has to.
            if (done.code != 0) != (is_broken and " verify " in command):
                opened.run("make demo-down")
                raise SystemExit(f"{command}: exit code {done.code}\n{done.text[-3000:]}")
            is_broken = BROKEN in command
    said[0].command = said[0].command.replace(str(ROOT), "URL")
    said[0].events[0] = (0.0, f"\x1b[1m$ {said[0].command}\x1b[0m\r\n")
    return said


def as_cast(said: list[Recorded]) -> str:
    """The recording; who plays it waits two seconds at most."""
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
    """The commands with their times, and how each ended.

    Args:
        load: how many processes wanted a core when it began.
    """
    lines = [
        "# The first ten minutes, recorded",
        "",
        "Made by `python -m tools.recording FOLDER`, which runs the README's commands and fails if",
        "one ends otherwise. Play [first-run.cast](first-run.cast) with `asciinema play`.",
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
