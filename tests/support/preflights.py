"""Preflight's view of clusters: a good one, and what may be installed in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.installed import mesh_releases
from prefect_linkerd.mesh.helm.ownership import Owner
from prefect_linkerd.mesh.helm.records import Release, ReleaseRef
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.planning.preflight import Owned, PreflightSnapshot

NOW = datetime(2026, 11, 24, tzinfo=UTC)
GOOD = PreflightSnapshot(
    facts=ClusterFacts("v1.34.4", frozenset({"v1", "policy/v1"})),
    server_clock=NOW,
    local_clock=NOW,
    denied=(),
    owned=(),
    releases=(),
    terminating=(),
    unready_nodes=0,
    nodes=3,
)
CRDS = Chart("linkerd-crds", "2026.8.3", "edge-26.8.3", ">=1.31.0-0", "here", Path("x"))
PLANE = Chart("linkerd-control-plane", "2026.8.3", "edge-26.8.3", ">=1.31.0-0", "here", Path("x"))
CHARTS = (CRDS, PLANE)
CONFIG = MeshConfig(profile="demo")


def release(chart: str, version: str, name: str = "", namespace: str = "linkerd") -> Release:
    return Release(name or chart, namespace, chart, version, "edge-1", 1, "deployed", NOW)


def with_releases(*releases: Release) -> PreflightSnapshot:
    return replace(GOOD, releases=releases, installed=mesh_releases(CONFIG, releases, {}))


def helm(name: str, namespace: str) -> Owner:
    ref = ReleaseRef(name, namespace)
    return Owner("Helm", f"Helm release {ref}", ref)


LINKERD_CLI = Owner("linkerd CLI", "the linkerd CLI")


def seen(
    *releases: Release, config: MeshConfig = CONFIG, owned: Sequence[Owner] = (), **more: Any
) -> PreflightSnapshot:
    charts = frozenset({"linkerd2", "linkerd-control-plane"})
    objects = tuple(Owned(f"ClusterRole/{o}", o, charts) for o in owned)
    installed = mesh_releases(config, releases, {})
    return replace(GOOD, releases=releases, installed=installed, owned=objects, **more)
