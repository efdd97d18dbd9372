"""A real Prefect server, and meshes on sandboxes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from sandbox.cluster import Sandbox
from sandbox.prefect_server import PrefectServer
from tasks.linkerd_mesh import LinkerdMesh

MeshFactory = Callable[..., LinkerdMesh]


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One server of each test process; flows called in it report there."""
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server:
        settings = {PREFECT_API_URL: f"{server.url}/api", PREFECT_HOME: server.home}
        with temporary_settings(settings):
            yield server


@pytest.fixture
def mesh_on(charts_dir: Path, shared_dir: Path) -> MeshFactory:
    """Configures a mesh on a sandbox, with charts and manifests of the mirror."""

    def configure(sandbox: Sandbox, **config: Any) -> LinkerdMesh:
        return LinkerdMesh.model_validate(
            {
                "access": {"kubeconfig": sandbox.kubeconfig},
                "charts": {"mirror": charts_dir},
                "emojivoto_manifest": str(shared_dir / "manifests/emojivoto.yml"),
                "timeout_seconds": 240,
                **config,
            }
        )

    return configure


@pytest.fixture(autouse=True)
def helm_on_path(binaries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(Path(binaries.helm).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([folder, os.environ["PATH"]]))
