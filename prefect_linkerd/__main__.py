"""The command `prefect-linkerd`."""

from __future__ import annotations

import atexit
import gc
import sys

INTERRUPTED = 130


def main() -> int:
    """Runs a command; its exit code. Interrupted while it loads, it ends like one that began."""
    # A quarter of a short command would be the search for garbage in what ends with it.
    atexit.register(gc.freeze)
    try:
        from prefect_linkerd.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        print("\nprefect-linkerd: interrupted.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
