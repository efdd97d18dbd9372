"""Meshes installed and rotated without Prefect; without more they are the control plane alone."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from prefect_linkerd.mesh.bootstrap.run import Bootstrap, find_charts
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.identity.trust_anchor import (
    ClusterKeyStore,
    FileKeyStore,
    KeyStore,
    brought_pair,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.records.rotation import RECORD, RotationClaim
from prefect_linkerd.mesh.restarts import RestartPolicy, read_data_plane
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.options import Action, NewAnchor, RotationOptions
from prefect_linkerd.mesh.rotation.plan import RotationPlan, inspect_rotation
from prefect_linkerd.mesh.rotation.run import Rotation
from tests.support.shared import require_version

PASSPHRASE = SecretStr("correct horse battery staple")
FAST = RotationOptions(restarts=RestartPolicy(batch_size=100), load_seconds=20, lease_seconds=3)
# Certificates that live for six seconds and what clocks may differ by: renewed after 18 seconds.
GENTLE = FAST.model_copy(update={"pace": "gentle", "leaf_minutes": 0.1})


NO_DEADLINE = 2**31 - 1


def quiet(_ready: int, _wanted: int, _text: str) -> None:
    pass


def configuration(
    version: str, shared: Path, folder: Path, issuer: str = "self-signed", **more: Any
) -> MeshConfig:
    """A mesh without extensions; its anchor's key in a file, or where cert-manager reads it."""
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


def ring_of(cluster: Cluster, config: MeshConfig) -> KeyRing:
    """The places of a mesh's keys, and the key that it provides, as the steps put them together."""
    anchor = config.trust_anchor
    store = store_of(cluster, config)
    return KeyRing(store, lambda: brought_pair(anchor), is_shared=anchor.share_anchor)


def install(
    cluster: Cluster, config: MeshConfig, helm_path: str, store: KeyStore | None = None
) -> None:
    """What bootstrap does after its plan, without Prefect."""
    mesh = Mesh(cluster, config, Helm(cluster, helm_path))
    facts = ClusterFacts(cluster.version(), cluster.api_versions())
    store = store or store_of(cluster, config)
    Bootstrap(mesh, find_charts(mesh), facts, store, lambda _title: nullcontext(quiet)).run()


def add_workloads(
    cluster: Cluster, count: int, namespace: str = "apps", control_plane: str = "linkerd"
) -> None:
    """Meshed Deployments of one pod each, all of them ready."""
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
                    "revisionHistoryLimit": 0,
                    # None at all: with one the controller writes the progress of each step into
                    # the status, which is a tenth of what a restart costs the cluster.
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


def await_lease(cluster: Cluster) -> None:
    """Waits until a run that died has lost its right to rotate, as the next one is told to."""
    while True:
        found = cluster.get("v1", "ConfigMap", RECORD, "linkerd")
        until = found["data"].get("until") if found is not None else None
        if not until or datetime.fromisoformat(until) <= cluster.clock():
            return
        time.sleep(0.2)


def chart_of(config: MeshConfig) -> Any:
    return ChartCatalog(config).find(release_facts(config.linkerd).control_plane_chart)


def plan(
    cluster: Cluster,
    config: MeshConfig,
    new: NewAnchor | None = None,
    options: RotationOptions = FAST,
    action: Action = "rotate",
) -> RotationPlan:
    ring = ring_of(cluster, config)
    return inspect_rotation(
        Mesh(cluster, config),
        ring,
        new or NewAnchor(),
        options,
        action,
        cluster.clock(),
    )


def rotate(
    cluster: Cluster,
    config: MeshConfig,
    helm_path: str,
    new: NewAnchor | None = None,
    options: RotationOptions = FAST,
    action: Action = "rotate",
    owner: str = "test",
    probe: Probe | None = None,
) -> list[str]:
    """What the flow does, without Prefect; the phases that were gone through."""
    new = new or NewAnchor()
    plan(cluster, config, new, options, action)
    phases: list[str] = []
    with RotationClaim(cluster, config.namespaces.linkerd, owner, options.lease_seconds) as claim:
        ring = ring_of(cluster, config)
        # A helm whose flow died is not waited for as long as one that may live.
        helm = Helm(cluster, helm_path, grace=5)
        rotation = Rotation(Mesh(cluster, config, helm), ring, claim, options)
        rotation.probe = probe or rotation.probe
        rotation.begin(new, action)
        while True:
            phase = rotation.next_phase(recover=action == "recover")
            phases.append(phase)
            assert len(phases) < 20, phases
            if phase == "done":
                rotation.finish()
                return phases
            rotation.advance(phase, quiet, recover=action == "recover")
