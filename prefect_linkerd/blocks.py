"""The Prefect blocks of this package, which every Prefect server that has it installed offers."""

from __future__ import annotations

from prefect_linkerd.tasks.chart_releases import KnownCharts
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh

__all__ = ["KnownCharts", "LinkerdMesh"]
