"""A Prefect plugin: creates what `prefect deploy` needs before its first deployment, if missing.

Only prefect.toml enables it, which Prefect reads from the folder of prefect.yaml.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from prefect.plugins import HookContext, register_hook


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Prepares the server if this process is a `prefect deploy`.

    Prefect calls this before each of its commands and flow runs, while its own import is still
    under way. So a separate process does the work.

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
    """Whether a command line is `prefect deploy`: its first word that is not an option."""
    words = [word for word in arguments[1:] if not word.startswith("-")]
    return words[:1] == ["deploy"]
