"""Runs a command for as long as the process that started this one lives, or keeps its pipe open.

python -m prefect_linkerd.server.lifeline COMMAND...    # ends it at the end of stdin
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

PATIENCE = 30.0
"""Seconds that the command has to end by itself."""


def main() -> int:
    # A group of its own, so that what it starts ends with it, and nobody else does.
    with subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True
    ) as process:
        threading.Thread(target=_end_after_stdin, args=[process], daemon=True).start()
        return process.wait()


def _end_after_stdin(process: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        # What it started may be there still.
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
