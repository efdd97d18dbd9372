"""Extra values checked by `safety_values`, and anchors that they could hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect_linkerd.mesh.config.model import ExtraValues, MeshConfig
from prefect_linkerd.mesh.helm.charts import ChartCatalog
from prefect_linkerd.mesh.helm.safety_values import UnsafeValue, unsafe_values
from prefect_linkerd.mesh.helm.values import ClusterFacts, values_for
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor

FACTS = ClusterFacts("v1.34.4", frozenset({"v1", "batch/v1"}))


def anchor() -> tuple[str, str]:
    pair = create_trust_anchor("cluster.local", timedelta(days=9), datetime.now(UTC))
    return pair.certificate, pair.private_key.get_secret_value()


MINE, KEY = anchor()
OTHER, _ = anchor()

PLANE = {"stable-2.11.5": "linkerd2", "edge-26.8.3": "linkerd-control-plane"}


def judged(
    mirror: Path, version: str, chart: Any, extra: ExtraValues, bundle: str = MINE
) -> tuple[list[UnsafeValue], dict[str, Any]]:
    """The findings about a chart's extra values, and the values that its release gets."""
    field = {"linkerd-viz": "viz", "linkerd-jaeger": "jaeger"}.get(chart)
    given: dict[str, Any] = {field: {"values": extra}} if field else {"values": extra}
    config = MeshConfig.model_validate(
        {"version": version, "charts": {"mirror": mirror}, "trust_domain": "mesh.example"} | given
    )
    values = values_for(ChartCatalog(config).find(chart), config, FACTS, trust_bundle=bundle)
    return unsafe_values(chart, config, values), values
