"""A Prefect plugin: what `prefect deploy` needs before its first deployment is made if missing.

Enabled by prefect.toml, which Prefect reads where prefect.yaml is, and by nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from prefect.plugins import HookContext, register_hook


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Prepares the server where this process is a `prefect deploy`.

    Prefect calls this before each of its commands and flow runs. It is in the middle of its own
    import then, so the work is done by a process of its own.

    Raises:
        RuntimeError: the server could not be prepared; Prefect logs why, and continues.
    """
    if ctx.api_url is None or not is_deploy(sys.argv):
        return
    done = subprocess.run(
        [sys.executable, "-m", "prefect_linkerd.deployments.register", "--prepare"],
        env=os.environ | {"PREFECT_PLUGINS_ENABLED": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-1000:])


def is_deploy(arguments: Sequence[str]) -> bool:
    """Whether a command line is that of `prefect deploy`, by its first word that is no option."""
    words = [word for word in arguments[1:] if not word.startswith("-")]
    return words[:1] == ["deploy"]
