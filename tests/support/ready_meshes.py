"""Meshes that are installed once and copied for every test that starts with one."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import grimp
from filelock import FileLock

from prefect_linkerd.mesh.config.model import MeshConfig
from sandbox.binaries import Binaries, cache_folder
from sandbox.cluster import Sandbox
from tests.support.meshes import control_plane
from tests.support.repository import ROOT

KEPT = 24 * 3600.0
"""Seconds that a mesh is kept after its last use: an older state of the code may have made it."""

SANDBOX = "sandbox.cluster"

ReadyMesh = Callable[..., tuple[Sandbox, MeshConfig]]
"""What the fixture `ready_mesh` returns."""

Install = Callable[[Sandbox, Path], object]
"""Installs a mesh on a sandbox, and writes its files outside the cluster into the folder."""


class ReadyMeshes:
    """Saved sandboxes in the user's cache, keyed by their content and everything that made it."""

    def __init__(self, binaries: Binaries, charts: Path) -> None:
        self._binaries = binaries
        self._charts = charts
        self._root = cache_folder() / "ready-meshes"
        self._digests: dict[str, str] = {}

    @contextmanager
    def copy(self, name: str, folder: Path, install: Install) -> Iterator[Sandbox]:
        """A sandbox of its own with a mesh, whose files are copied into `folder`.

        Args:
            name: what `install` makes: the same name means the same mesh.
        """
        home = self._root / self._key(name, install)
        home.mkdir(parents=True, exist_ok=True)
        os.utime(home)
        self._delete_expired()
        kept = home / "mesh"
        with ExitStack() as stack:
            with FileLock(home / "lock"):
                made = None if kept.exists() else stack.enter_context(self._sandbox())
                if made is not None:
                    self._make(made, kept, install)
            shutil.copytree(kept / "files", folder, dirs_exist_ok=True)
            # The first caller gets the original sandbox: starting another would cost seconds.
            yield made or stack.enter_context(self._sandbox(kept / "sandbox"))

    def _sandbox(self, saved: Path | None = None) -> Sandbox:
        return Sandbox("ready", saved=saved, binaries=self._binaries)

    def _make(self, sandbox: Sandbox, kept: Path, install: Install) -> None:
        partial = Path(tempfile.mkdtemp(prefix="making-", dir=kept.parent))
        try:
            (partial / "files").mkdir()
            install(sandbox, partial / "files")
            sandbox.save(partial / "sandbox")
            partial.rename(kept)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _key(self, name: str, install: Install) -> str:
        """A key from the mesh's name and everything that affects the result."""
        # `install` may be in any module of the tests.
        module = install.__module__
        if module not in self._digests:
            self._digests[module] = self._digest(module)
        return hashlib.sha256(f"{name} {self._digests[module]}".encode()).hexdigest()[:16]

    def _digest(self, module: str) -> str:
        """A digest of the code that a module imports, the programs and the charts."""
        digest = hashlib.sha256()
        for program in vars(self._binaries).values():
            digest.update(f"{program} {program.stat().st_size}".encode())
        modules = {module, SANDBOX}.union(
            *(_graph().find_upstream_modules(each) for each in (module, SANDBOX))
        )
        sources = [*map(_source, modules), *(ROOT / "sandbox").glob("*.yaml"), ROOT / "uv.lock"]
        for path in sorted([*sources, *self._charts.rglob("*.tgz")]):
            digest.update(str(path.name).encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _delete_expired(self) -> None:
        for other in self._root.iterdir():
            if time.time() - other.stat().st_mtime > KEPT:
                shutil.rmtree(other, ignore_errors=True)


def ready_control_plane(
    ready_meshes: ReadyMeshes, version: str, issuer: str, shared: Path, helm_path: str, folder: Path
) -> AbstractContextManager[Sandbox]:
    """A copy of a control plane of a version and an issuer mode, without workloads."""
    install = control_plane(version, shared, helm_path, issuer)
    return ready_meshes.copy(f"control plane {version} {issuer}", folder, install)


@functools.cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("prefect_linkerd", "sandbox", "tests", cache_dir=None)


def _source(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
