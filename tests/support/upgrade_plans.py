"""Inputs of an upgrade's plan, from real charts and without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import Chart, ChartCatalog, ChartName, charts_of
from prefect_linkerd.mesh.helm.client import Release
from prefect_linkerd.mesh.helm.records import Revision
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.upgrade.plan import PlanSnapshot, at_version
from tests.support.upgrades import TRAFFIC_SPLIT

FACTS = ClusterFacts("v1.30.0", frozenset({"v1", "apps/v1", "policy/v1"}))


def charts(config: MeshConfig) -> dict[ChartName, Chart]:
    catalog = ChartCatalog(config)
    return {name: catalog.find(name) for name in charts_of(config)}


def revision(chart: Chart, namespace: str = "linkerd") -> Revision:
    return Revision(
        chart.name, namespace, 1, "deployed", chart.name, chart.version, chart.app_version, {},
        chart.defaults, (), {},
    )  # fmt: skip


def snapshot(mirror: Path, source: str, target: str, **config: Any) -> PlanSnapshot:
    """A mesh of a version with nothing unusual about it."""
    mesh = MeshConfig.model_validate(
        {"version": source, "charts": {"mirror": str(mirror)}, "viz": {"enabled": False}, **config}
    )
    version = LinkerdVersion.parse(target)
    return PlanSnapshot(
        config=mesh,
        source=LinkerdVersion.parse(source),
        target=version,
        facts=FACTS,
        installed={name: revision(chart) for name, chart in charts(mesh).items()},
        charts=charts(at_version(mesh, version)),
        rendered={},
        user_values={},
        objects=[],
        crds=[],
        findings=[],
        traffic_splits=[],
        releases=[],
        behind=3,
    )


SPLIT: Object = {
    **TRAFFIC_SPLIT,
    "spec": {
        "service": "web-svc",
        "backends": [
            {"service": "web-svc", "weight": "900m"},
            {"service": "web-next", "weight": 100},
        ],
    },
}
ADAPTOR = Release("smi", "linkerd-smi", "linkerd-smi", "0.2", "", 1, "deployed", datetime.now(UTC))
