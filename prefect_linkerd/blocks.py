"""The Prefect block types of this package, for any Prefect server that has it installed."""

from __future__ import annotations

from prefect_linkerd.tasks.chart_releases import KnownCharts
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh

__all__ = ["KnownCharts", "LinkerdMesh"]
