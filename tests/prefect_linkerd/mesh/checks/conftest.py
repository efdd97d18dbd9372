"""A whole mesh of the version that a test asks for, kept until a test asks for another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support.installed import InstalledMesh, configuration, install


@pytest.fixture(scope="package")
def mesh(
    request: pytest.FixtureRequest,
    binaries: Binaries,
    shared_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[InstalledMesh]:
    """The mesh of a Linkerd version, which is this fixture's parameter (see `installed.on`)."""
    version: str = request.param
    with Sandbox(f"checks-{version}", binaries=binaries) as sandbox:
        folder = tmp_path_factory.mktemp(version)
        config = configuration(version, shared_dir, folder, sandbox.kubeconfig)
        yield install(sandbox.cluster(), config, str(binaries.helm))
