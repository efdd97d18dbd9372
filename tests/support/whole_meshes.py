"""Meshes with all extensions, installed without Prefect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from sandbox.cluster import Sandbox
from tests.support import meshes


def configuration(version: str, shared: Path, folder: Path, kubeconfig: Path) -> MeshConfig:
    """A self-signed mesh with all extensions and charts from the mirror."""
    facts = release_facts(LinkerdVersion.parse(version))
    return MeshConfig.model_validate(
        {
            "name": version.replace(".", "-"),
            "access": {"kubeconfig": str(kubeconfig)},
            "version": version,
            "charts": {"mirror": str(shared / "charts")},
            "profile": "demo",
            "emojivoto": {"manifest": str(shared / "manifests/emojivoto.yml")},
            "viz": {"dashboard": {"host": "viz.example.com"}},
            "jaeger": {"enabled": "linkerd-jaeger" in facts.extensions},
            "trust_anchor": {
                "key_file": str(folder / "anchor.key"),
                "passphrase": meshes.PASSPHRASE,
            },
            "timeout_seconds": 240,
        }
    )


def whole_mesh(version: str, shared: Path, helm_path: str) -> Callable[[Sandbox, Path], None]:
    """Returns a function that installs such a mesh on a sandbox, for `ReadyMeshes.copy`."""

    def install(sandbox: Sandbox, folder: Path) -> None:
        config = configuration(version, shared, folder, sandbox.kubeconfig)
        meshes.install(sandbox.cluster(), config, helm_path)

    return install
