"""Our own charts for a demo without network: not Linkerd, but with its names and objects."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from prefect_linkerd.mesh.helm.environment import helm_environment

SOURCES = Path(__file__).with_name("charts")
REPOSITORIES = {
    "edge": ("linkerd-crds", "linkerd-control-plane", "linkerd-viz"),
    "jetstack": ("cert-manager",),
    "traefik": ("traefik",),
}


def rehearsal_mirror(helm: Path, into: Path) -> Path:
    """Packages the rehearsal charts into a folder laid out like a mirror, and returns it."""
    shutil.rmtree(into, ignore_errors=True)
    environment = helm_environment(os.environ, None)
    for repository, charts in REPOSITORIES.items():
        folder = into / repository
        folder.mkdir(parents=True)
        for chart in charts:
            command = [helm, "package", SOURCES / chart, "--destination", folder]
            subprocess.run(command, check=True, capture_output=True, env=environment)
        index = [helm, "repo", "index", folder]
        subprocess.run(index, check=True, capture_output=True, env=environment)
    return into


def rehearsal_emojivoto() -> Path:
    """Returns the path of the manifest that stands in for emojivoto's."""
    return SOURCES / "emojivoto.yml"
