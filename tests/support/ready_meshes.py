"""Meshes that are installed once, and copied for every test that begins with one."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from filelock import FileLock

from prefect_linkerd.mesh.config.model import MeshConfig
from sandbox.binaries import Binaries, cache_folder
from sandbox.cluster import Sandbox
from tests.support.repository import ROOT

KEPT = 24 * 3600.0
"""Seconds that copies for another state of the code are kept after their last use."""

ReadyMesh = Callable[..., tuple[Sandbox, MeshConfig]]
"""What the fixture `ready_mesh` gives."""

Install = Callable[[Sandbox, Path], object]
"""Installs a mesh on a sandbox, and writes what belongs to it outside of it into the folder."""


class ReadyMeshes:
    """Saved sandboxes in the user's cache, by what they hold and by everything that made it."""

    def __init__(self, binaries: Binaries, charts: Path) -> None:
        self._binaries = binaries
        self._charts = charts
        self._root = cache_folder() / "ready-meshes"

    @contextmanager
    def copy(self, name: str, folder: Path, install: Install) -> Iterator[Sandbox]:
        """A sandbox of its own with a mesh, and its files in a folder.

        Args:
            name: says what `install` makes: the same name means the same mesh.
        """
        home = self._root / self._digest
        # What installs it may stand in any module of the tests.
        source = Path(inspect.getfile(install)).read_bytes()
        kept = home / hashlib.sha256(name.encode() + source).hexdigest()[:16]
        home.mkdir(parents=True, exist_ok=True)
        os.utime(home)
        self._forget_others()
        with ExitStack() as stack:
            with FileLock(kept.with_suffix(".lock")):
                made = None if kept.exists() else stack.enter_context(self._sandbox())
                if made is not None:
                    self._make(made, kept, install)
            shutil.copytree(kept / "files", folder, dirs_exist_ok=True)
            # The first one is the sandbox itself: another start would cost seconds.
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

    @cached_property
    def _digest(self) -> str:
        """What decides how a mesh turns out: our code, the programs and the charts."""
        digest = hashlib.sha256()
        for program in vars(self._binaries).values():
            digest.update(f"{program} {program.stat().st_size}".encode())
        sources = [
            path
            for folder in ("prefect_linkerd/mesh", "sandbox", "tests/support")
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".py", ".yaml", ".go") and path.is_file()
        ]
        for path in sorted([*sources, *self._charts.rglob("*.tgz"), ROOT / "uv.lock"]):
            digest.update(str(path.name).encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def _forget_others(self) -> None:
        for other in self._root.iterdir():
            if other.name != self._digest and time.time() - other.stat().st_mtime > KEPT:
                shutil.rmtree(other, ignore_errors=True)
