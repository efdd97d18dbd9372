"""Whole meshes to check: real charts of one Linkerd version on a sandbox of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from mesh.charts import Chart, ChartCatalog, ChartName, charts_of
from mesh.checks import CATEGORIES
from mesh.checks.check import Scope
from mesh.cluster import Cluster
from mesh.config import MeshConfig
from mesh.emojivoto import ensure_emojivoto
from mesh.helm import Helm, desired_release
from mesh.ingress import ensure_ingress
from mesh.injection import ensure_meshed
from mesh.issuer import ensure_self_signed_issuer
from mesh.namespaces import ensure_namespaces
from mesh.pki import KeyPair
from mesh.report import Report, verify
from mesh.rollout import await_rollouts
from mesh.snapshot import Snapshot, read_snapshot
from mesh.trust_anchor import FileKeyStore, ensure_trust_anchor
from mesh.values import ClusterFacts, values_for
from mesh.version import LinkerdVersion

T = TypeVar("T")

Failures = frozenset[tuple[str, str]]
"""Check ids with the outcome `error` or `warning`."""

SCOPES: tuple[Scope, ...] = ("control-plane", "proxy", "cni", "viz", "jaeger", "beyond")
"""What an installed mesh is judged by; `pre` is for a cluster without one."""

DEFAULT = "stable-2.14.10"
PASSPHRASE = SecretStr("correct horse battery staple")
SETTLED = 60.0
"""Seconds that the cluster's controllers have to bring about what a test waits for."""


@dataclass(frozen=True)
class InstalledMesh:
    """A mesh that runs: its configuration, its cluster, and its trust anchor with the key."""

    config: MeshConfig
    cluster: Cluster
    anchor: KeyPair

    def read(self) -> Snapshot:
        return read_snapshot(self.cluster, self.config)

    def report(self, scopes: Iterable[Scope] = SCOPES) -> Report:
        return verify(self.read(), CATEGORIES, scopes)

    def settles_to(self, expected: Failures) -> Failures:
        """What fails once it is as expected, or after a while whatever else it is."""
        deadline = time.monotonic() + SETTLED
        while (found := failing(self.cluster, self.config)) != expected:
            if time.monotonic() > deadline:
                break
            time.sleep(0.3)
        return found


def failing(cluster: Cluster, config: MeshConfig, scopes: Iterable[Scope] = SCOPES) -> Failures:
    """The checks of a mesh, as it is now, that do not hold."""
    report = verify(read_snapshot(cluster, config), CATEGORIES, scopes)
    return frozenset((result.check.id, result.outcome) for result in report.failing)


def on(version: str, *values: Any, name: str | None = None) -> Any:
    """A case of a test on a mesh of a version: the fixture `mesh` comes first.

    All cases of a version run in one process, one after the other, so that each mesh is installed
    once and meshes of two versions are never kept side by side.
    """
    group = pytest.mark.xdist_group(f"mesh {version}")
    return pytest.param(version, *values, marks=group, id=name or version)


def configuration(version: str, shared: Path, folder: Path, kubeconfig: Path) -> MeshConfig:
    """A mesh with everything in it, self-signed, its charts from the mirror."""
    return MeshConfig.model_validate(
        {
            "name": version.replace(".", "-"),
            "access": {"kubeconfig": str(kubeconfig)},
            "version": version,
            "charts": {"mirror": str(shared / "charts")},
            "profile": "demo",
            "emojivoto": {"manifest": str(shared / "manifests/emojivoto.yml")},
            "viz": {"dashboard": {"host": "viz.example.com"}},
            "jaeger": {"enabled": LinkerdVersion.parse(version).has_jaeger},
            "trust_anchor": {"key_file": str(folder / "anchor.key"), "passphrase": PASSPHRASE},
            "timeout_seconds": 240,
        }
    )


def install(cluster: Cluster, config: MeshConfig, helm_path: str) -> InstalledMesh:
    """What bootstrap does, without Prefect and as much side by side as there can be."""
    assert config.trust_anchor.key_file is not None
    helm, catalog, now = Helm(cluster, helm_path), ChartCatalog(config), datetime.now(UTC)
    facts = ClusterFacts(cluster.version(), cluster.api_versions())
    ensure_namespaces(cluster, config)
    store = FileKeyStore(config.trust_anchor.key_file, PASSPHRASE)
    anchor = ensure_trust_anchor(cluster, config, store, now)
    ensure_self_signed_issuer(cluster, config, anchor, store, now)

    def release(chart: Chart) -> None:
        values = values_for(chart, config, facts, trust_bundle=anchor.bundle)
        helm.reconcile(desired_release(config, chart, values))

    def extension(name: ChartName, namespace: str) -> None:
        release(catalog.find(name))
        ensure_meshed(cluster, namespace, config.timeout_seconds, _ignore)

    def application() -> None:
        workloads = ensure_emojivoto(cluster, config)
        await_rollouts(cluster, workloads, config.timeout_seconds, _ignore, every=0.3)

    def traefik() -> None:
        release(catalog.find("traefik"))
        ensure_ingress(cluster, config)

    charts = charts_of(config)
    if "linkerd-crds" in charts:
        release(catalog.find("linkerd-crds"))
    release(catalog.find("linkerd2" if "linkerd2" in charts else "linkerd-control-plane"))
    _side_by_side(
        *(
            partial(extension, name, namespace)
            for name, namespace in (
                ("linkerd-viz", config.namespaces.viz),
                ("linkerd-jaeger", config.namespaces.jaeger),
            )
            if name in charts
        ),
        application,
        traefik,
    )
    pair = store.load()
    assert pair is not None
    return InstalledMesh(config, cluster, pair)


def _side_by_side(*works: Callable[[], T]) -> list[T]:
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work) for work in works]
        return [future.result() for future in running]


def _ignore(_ready: int, _wanted: int, _text: str) -> None:
    """Progress that nobody looks at."""
