"""A real Prefect server, and flows run as users run them: in a process of their own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.server.prefect_server import PrefectServer
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support import meshes
from tests.support.flows import ConfigFactory, FlowRunner, Flows, ReadyWholeMesh, WholeMesh
from tests.support.meshes import PASSPHRASE
from tests.support.ready_meshes import ReadyMeshes
from tests.support.shared import REHEARSED, require_version


@pytest.fixture(scope="session")
def mesh_config(charts_dir: Path, shared_dir: Path) -> ConfigFactory:
    """Configures a mesh on a sandbox, with the mirror's charts and manifests."""

    def configure(sandbox: Sandbox, **config: Any) -> dict[str, Any]:
        require_version(config.get("version", REHEARSED))
        content = {
            "access": {"kubeconfig": str(sandbox.kubeconfig)},
            "charts": {"mirror": str(charts_dir)},
            "profile": "demo",
            "emojivoto": {"manifest": str(shared_dir / "manifests/emojivoto.yml")},
            "timeout_seconds": 240,
            **config,
        }
        LinkerdMesh.model_validate(content)
        return content

    return configure


@pytest.fixture(scope="session")
def whole_mesh(ready_meshes: ReadyMeshes, mesh_config: ConfigFactory, helm_path: str) -> WholeMesh:
    """A copy of a mesh with everything in its configuration, as `bootstrap` installs it.

    Takes the module and the folder of the test, and what `mesh_config` takes; yields the sandbox
    and the mesh's configuration. The anchor's key is in the folder unless it is in the cluster.
    """

    @contextmanager
    def copy(module: Path, place: Path, **config: Any) -> Iterator[tuple[Sandbox, dict[str, Any]]]:
        def content(sandbox: Sandbox, folder: Path) -> dict[str, Any]:
            anchor = {
                "key_file": str(folder / "anchor.pem"),
                "passphrase": PASSPHRASE.get_secret_value(),
            }
            return mesh_config(sandbox, **{"trust_anchor": anchor, **config})

        def install(sandbox: Sandbox, folder: Path) -> None:
            mesh = MeshConfig.model_validate(content(sandbox, folder))
            meshes.install(sandbox.cluster(), mesh, helm_path)

        # The key includes the test's module, as a test may create charts in its folder.
        test = hashlib.sha256(module.read_bytes()).hexdigest()
        name = f"whole mesh {test} {json.dumps(config)}".replace(str(place), "")
        with ready_meshes.copy(name, place, install) as sandbox:
            yield sandbox, content(sandbox, place)

    return copy


@pytest.fixture
def ready_whole_mesh(
    whole_mesh: WholeMesh, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[ReadyWholeMesh]:
    """Like `whole_mesh`, but for one test: takes the configuration alone."""
    with ExitStack() as stack:
        yield lambda **config: stack.enter_context(whole_mesh(request.path, tmp_path, **config))


@pytest.fixture(scope="session")
def flows(
    binaries: Binaries, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flows]:
    """Runs flows, with the Prefect server and helm of this test process."""
    environment = os.environ | prefect_server.environment
    environment["PATH"] = os.pathsep.join([str(binaries.helm.parent), environment["PATH"]])
    with subprocess.Popen(
        [sys.executable, "-m", "tests.flows.run_flows"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Flows(process, tmp_path_factory.mktemp("flows"))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)


@pytest.fixture
def run_bootstrap(flows: Flows) -> FlowRunner:
    """Runs bootstrap on a configuration; kills it in a step, after a number of writes, if given."""

    def run(
        config: dict[str, Any], *kill: Any, on_server: bool = False
    ) -> subprocess.CompletedProcess[str]:
        return flows("bootstrap", config, kill=kill or None, on_server=on_server)

    return run
