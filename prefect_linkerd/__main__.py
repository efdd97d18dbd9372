"""The command `prefect-linkerd`."""

from __future__ import annotations

import atexit
import gc
import sys

INTERRUPTED = 130


def main() -> int:
    """Runs a command and returns its exit code; handles Ctrl-C while the modules still load."""
    # Otherwise garbage collection at exit takes a quarter of a short command's time.
    atexit.register(gc.freeze)
    try:
        from prefect_linkerd.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        print("\nprefect-linkerd: interrupted.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
