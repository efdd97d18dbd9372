"""A complete mesh of the version that a test requests, kept until one requests another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installed import InstalledMesh, installed
from tests.support.ready_meshes import ReadyMeshes
from tests.support.whole_meshes import configuration, whole_mesh


@pytest.fixture(scope="package")
def mesh(
    request: pytest.FixtureRequest,
    ready_meshes: ReadyMeshes,
    shared_dir: Path,
    helm_path: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[InstalledMesh]:
    """The mesh of the Linkerd version in this fixture's parameter (see `installed.on`)."""
    version: str = request.param
    folder = tmp_path_factory.mktemp(version)
    install = whole_mesh(version, shared_dir, helm_path)
    with ready_meshes.copy(f"whole mesh {version}", folder, install) as sandbox:
        config = configuration(version, shared_dir, folder, sandbox.kubeconfig)
        yield installed(sandbox.cluster(), config)
