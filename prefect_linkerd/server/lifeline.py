"""Runs a command until the parent process dies or closes the pipe to this one's stdin.

python -m prefect_linkerd.server.lifeline COMMAND...    # stops the command at the end of stdin
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

PATIENCE = 30.0
"""Seconds between SIGTERM and SIGKILL."""


def main() -> int:
    # In its own process group, so that we can stop it and its children and nothing else.
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
        # Its children may still be running.
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
