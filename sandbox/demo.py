"""The demo: a cluster with a mesh, and a Prefect server with a worker."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from rich.console import Console

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import UPSTREAM
from prefect_linkerd.server.prefect_server import PrefectServer, end
from sandbox.binaries import cache_folder
from sandbox.cluster import Sandbox, state_folder

NAME = "demo"
MESH = "mesh"
"""The name of the mesh and of its block: the schedules in prefect.yaml are for this block."""
VERSION = MeshConfig().version
HOST = "viz.example.com"
REPOSITORY = Path(__file__).parents[1]
SHARED = Path(os.environ.get("SHARED_DIR", REPOSITORY.parent / "shared"))


@dataclass(frozen=True)
class Material:
    """The charts and manifest that the demo installs: their source in words, and as settings."""

    words: str
    charts: dict[str, str]
    emojivoto: str | None = None
    is_rehearsal: bool = False


def choose_material(mirror: Path | None, helm: Path, cache: Path) -> Material:
    """Chooses the charts: a mirror's, else upstream's if reachable, else our rehearsal charts."""
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


class Worker:
    """A worker of pool `linkerd` that outlives this process, with its own folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._pidfile = home / "worker.pid"
        self.log = home / "worker.log"

    def start(self, environment: Mapping[str, str]) -> None:
        """Starts it unless it is running."""
        if self._pid() is not None:
            return
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "prefect", "worker", "start"),
                    *("--pool", "linkerd", "--type", "process", "--name", NAME, "--limit", "2"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=self.home,
                start_new_session=True,
            )
        self._pidfile.write_text(str(process.pid))

    def stop(self) -> None:
        """Stops it and its runs; does nothing if it is not running."""
        if (pid := self._pid()) is None:
            return
        end(pid, 10.0, group=True)
        self._pidfile.unlink(missing_ok=True)

    def _pid(self) -> int | None:
        with contextlib.suppress(ChildProcessError, OSError, ValueError):
            pid = int(self._pidfile.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            return pid if b"worker" in command else None
        return None


def demo(mirror: Path | None = None) -> int:
    """Starts everything, runs `bootstrap`, and leaves the cluster and the UI running.

    Returns the exit code of the flow.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    begin = time.monotonic()
    sandbox = Sandbox(NAME, detached=True)
    server = PrefectServer(_server_home(), detached=True)
    console.print(
        "demo: starting a cluster and a Prefect server (the first time this takes half a minute)"
    )
    with ThreadPoolExecutor() as beside:
        serving = beside.submit(server.start)
        sandbox.start()
        serving.result()
    material = choose_material(mirror, sandbox.binaries.helm, _rehearsal())
    console.print(f"demo: installing from {material.words}")
    config = {
        "name": MESH,
        "profile": "demo",
        "version": VERSION,
        "access": {"kubeconfig": str(sandbox.kubeconfig)},
        "charts": material.charts,
        "issuer": "cert-manager",
        "trust_anchor": {"custody": "in-cluster"},
        "viz": {"dashboard": {"host": HOST}},
        **({"emojivoto": {"manifest": material.emojivoto}} if material.emojivoto else {}),
    }
    path = _configuration()
    path.write_text(yaml.safe_dump(config))
    environment = os.environ | server.environment
    environment["PATH"] = f"{sandbox.binaries.helm.parent}{os.pathsep}{environment['PATH']}"
    # Separate processes, because Prefect reads its settings when it is imported. The deployments
    # are created while the mesh is installed; their first scheduled runs wait for a worker.
    register = [sys.executable, "-m", "prefect_linkerd.deployments.register", "--mesh", str(path)]
    with (_server_home() / "register.log").open("wb") as log:
        registers = subprocess.Popen(register, env=environment, stdout=log, stderr=log)
    command = [sys.executable, "-m", "sandbox.demo_flow", str(path)]
    if material.is_rehearsal:
        command.append("--rehearsal")
    try:
        code = subprocess.run(command, env=environment, check=False).returncode
        console.print("demo: making deployments, and starting a worker for them")
        failed = registers.wait()
    except BaseException:
        registers.terminate()
        raise
    if failed:
        console.print(f"demo: no deployments: see {log.name}")
    else:
        Worker(_worker_home()).start(environment)
    shell = _write_shell(sandbox)
    console.print(f"\nup in {time.monotonic() - begin:.0f} s")
    console.print(f"Prefect UI     {server.url}")
    console.print(f"kubeconfig     {sandbox.kubeconfig}")
    console.print(f"try it         . {shell}")
    console.print("end the demo   make demo-down")
    return code or failed


def _write_shell(sandbox: Sandbox) -> Path:
    """Writes a file that sets `PATH`, `KUBECONFIG` and `MESH` for the demo in a shell."""
    programs = (Path(sys.executable), sandbox.binaries.helm, sandbox.binaries.kubectl)
    folders = ":".join(dict.fromkeys(shlex.quote(str(program.parent)) for program in programs))
    path = _shell()
    path.write_text(
        f"export PATH={folders}:$PATH\n"
        f"export KUBECONFIG={shlex.quote(str(sandbox.kubeconfig))}\n"
        f"export MESH={shlex.quote(str(_configuration()))}\n"
        'echo "helm, kubectl and prefect-linkerd are on PATH; the mesh is \\$MESH"\n'
    )
    return path


def demo_down() -> int:
    """Stops what `demo` left running, deletes what it wrote, and prints both."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    Worker(_worker_home()).stop()
    PrefectServer(_server_home()).stop()
    Sandbox(NAME, detached=True).stop()
    for written in (_worker_home(), _server_home(), _configuration(), _shell(), _rehearsal()):
        if written.is_dir():
            shutil.rmtree(written)
        elif written.exists():
            written.unlink()
        else:
            continue
        console.print(f"removed        {written}")
    console.print("stopped        the worker, the Prefect server and the cluster")
    console.print(f"kept           {cache_folder()}, the programs and charts for the next time")
    return 0


def _server_home() -> Path:
    return state_folder().parent / "demo-prefect"


def _worker_home() -> Path:
    return state_folder().parent / "demo-worker"


def _configuration() -> Path:
    return state_folder().parent / "demo-mesh.yaml"


def _shell() -> Path:
    return state_folder().parent / "demo.sh"


def _rehearsal() -> Path:
    return state_folder().parent / "rehearsal"
