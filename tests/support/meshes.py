"""Meshes installed without Prefect; by default the control plane alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from prefect_linkerd.mesh.bootstrap.run import Bootstrap, find_charts
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.identity.trust_anchor import (
    ClusterKeyStore,
    FileKeyStore,
    KeyStore,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.restarts import read_data_plane
from sandbox.cluster import Sandbox
from tests.support.shared import require_version

PASSPHRASE = SecretStr("correct horse battery staple")
NO_DEADLINE = 2**31 - 1


def quiet(_ready: int, _wanted: int, _text: str) -> None:
    pass


def configuration(
    version: str, shared: Path, folder: Path, issuer: str = "self-signed", **more: Any
) -> MeshConfig:
    """A mesh without extensions; its anchor's key is in a file, or where cert-manager reads it."""
    require_version(version)
    anchor = (
        {"custody": "in-cluster"}
        if issuer == "cert-manager"
        else {"key_file": str(folder / "anchor.key"), "passphrase": PASSPHRASE}
    )
    return MeshConfig.model_validate(
        {
            "name": version.replace(".", "-"),
            "version": version,
            "charts": {"mirror": str(shared / "charts")},
            "viz": {"enabled": False},
            "traefik": {"enabled": False},
            "emojivoto": {"enabled": False},
            "issuer": issuer,
            "trust_anchor": anchor,
            "timeout_seconds": 240,
            **more,
        }
    )


def store_of(cluster: Cluster, config: MeshConfig) -> KeyStore:
    key_file = config.trust_anchor.key_file
    if key_file is None:
        return ClusterKeyStore(cluster, config.namespaces.linkerd)
    return FileKeyStore(key_file, PASSPHRASE)


def install(
    cluster: Cluster, config: MeshConfig, helm_path: str, store: KeyStore | None = None
) -> None:
    """What bootstrap does after its plan, without Prefect."""
    mesh = Mesh(cluster, config, Helm(cluster, helm_path))
    facts = ClusterFacts(cluster.version(), cluster.api_versions())
    store = store or store_of(cluster, config)
    Bootstrap(mesh, find_charts(mesh), facts, store, lambda _title: nullcontext(quiet)).run()


def control_plane(
    version: str, shared: Path, helm_path: str, issuer: str = "self-signed"
) -> Callable[[Sandbox, Path], None]:
    """Returns a function that installs a control plane on a sandbox, for `ReadyMeshes.copy`."""

    def install_it(sandbox: Sandbox, folder: Path) -> None:
        install(sandbox.cluster(), configuration(version, shared, folder, issuer), helm_path)

    return install_it


def add_workloads(
    cluster: Cluster, count: int, namespace: str = "apps", control_plane: str = "linkerd"
) -> None:
    """Adds meshed Deployments of one pod each, and waits until all are ready."""
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "annotations": {"linkerd.io/inject": "enabled"}},
        }
    )

    def add(number: int) -> None:
        name = f"app-{number:04}"
        cluster.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    # Turns the deadline off: with one, the controller writes each step's progress
                    # into the status, which is a tenth of what a restart costs the cluster.
                    "progressDeadlineSeconds": NO_DEADLINE,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": {"app": name}},
                        "spec": {"containers": [{"name": "app", "image": "example.com/app:1"}]},
                    },
                },
            }
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(count)))
    deadline = time.monotonic() + 600
    while True:
        plane = read_data_plane(cluster, control_plane)
        targets = [target for target in plane.targets.values() if target.workload[1] == namespace]
        ready = [pod for pod in plane.pods if pod.namespace == namespace and pod.is_ready]
        if len(ready) >= count and all(target.is_complete for target in targets):
            return
        assert time.monotonic() < deadline, f"{len(ready)} of {count} pods are ready"
        time.sleep(0.5)
