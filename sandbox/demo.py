"""The demonstration: a cluster, a Prefect server, and a mesh that is installed there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from rich.console import Console

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import UPSTREAM
from prefect_linkerd.prefect_server import PrefectServer
from sandbox.cluster import Sandbox, state_folder

NAME = "demo"
VERSION = MeshConfig().version
HOST = "viz.example.com"
REPOSITORY = Path(__file__).parents[1]
SHARED = Path(os.environ.get("SHARED_DIR", REPOSITORY.parent / "shared"))


@dataclass(frozen=True)
class Material:
    """What the demo installs: where from, in words, and the settings that say so."""

    words: str
    charts: dict[str, str]
    emojivoto: str | None = None
    is_rehearsal: bool = False


def choose_material(mirror: Path | None, helm: Path, cache: Path) -> Material:
    """The charts that can be reached: a mirror, upstream's, else our own rehearsal charts."""
    if mirror is not None:
        manifest = mirror.parent / "manifests/emojivoto.yml"
        return Material(
            f"the charts of {mirror}",
            {"mirror": str(mirror.resolve())},
            str(manifest) if manifest.exists() else None,
        )
    if (SHARED / "charts/edge/index.yaml").exists():
        return choose_material(SHARED / "charts", helm, cache)
    try:
        for repository in ("edge", "jetstack", "traefik"):
            httpx.head(f"{UPSTREAM[repository]}/index.yaml", timeout=5, follow_redirects=True)
    except httpx.HTTPError:
        from sandbox.rehearsal import rehearsal_emojivoto, rehearsal_mirror

        return Material(
            "REHEARSAL CHARTS: not Linkerd, only its names, values and objects",
            {"mirror": str(rehearsal_mirror(helm, cache))},
            str(rehearsal_emojivoto()),
            is_rehearsal=True,
        )
    return Material("the upstream charts", {})


def demo(mirror: Path | None = None) -> int:
    """Starts everything, runs `bootstrap`, and leaves the cluster and the UI running.

    Returns the exit code of the flow.
    """
    console = Console(stderr=True, highlight=False)
    sandbox = Sandbox(NAME, detached=True)
    console.print("demo: starting a cluster")
    sandbox.start()
    server = PrefectServer(state_folder().parent / "demo-prefect", detached=True)
    console.print("demo: starting a Prefect server (the first time this takes half a minute)")
    server.start()
    material = choose_material(mirror, sandbox.binaries.helm, state_folder().parent / "rehearsal")
    console.print(f"demo: installing from {material.words}")
    config = {
        "name": NAME,
        "profile": "demo",
        "version": VERSION,
        "access": {"kubeconfig": str(sandbox.kubeconfig)},
        "charts": material.charts,
        "issuer": "cert-manager",
        "trust_anchor": {"custody": "in-cluster"},
        "viz": {"dashboard": {"host": HOST}},
        **({"emojivoto": {"manifest": material.emojivoto}} if material.emojivoto else {}),
    }
    path = state_folder().parent / "demo-mesh.yaml"
    path.write_text(yaml.safe_dump(config))
    environment = os.environ | server.environment
    environment["PATH"] = f"{sandbox.binaries.helm.parent}{os.pathsep}{environment['PATH']}"
    # A process of its own, because Prefect reads its settings when it is imported.
    command = [sys.executable, "-m", "sandbox.demo_flow", str(path)]
    if material.is_rehearsal:
        command.append("--rehearsal")
    code = subprocess.run(command, env=environment, check=False).returncode
    console.print(f"\nPrefect UI     {server.url}")
    console.print(f"kubeconfig     {sandbox.kubeconfig}")
    console.print("end the demo   make demo-down")
    return code


def demo_down() -> int:
    """Ends what `demo` left running."""
    PrefectServer(state_folder().parent / "demo-prefect").stop()
    Sandbox(NAME, detached=True).stop()
    return 0
