"""Reads how each Helm release of a mesh would change, for `planning.losses` to judge."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.chart_changes import (
    CRD,
    has_newer_crds,
    object_changes,
    own_folder_crds,
)
from prefect_linkerd.mesh.helm.charts import Chart, ChartName, folder_crds
from prefect_linkerd.mesh.helm.client import DesiredRelease
from prefect_linkerd.mesh.helm.records import ReleaseRef, Revision
from prefect_linkerd.mesh.helm.values import (
    FIELDS,
    ClusterFacts,
    Values,
    computed_values,
    extra_of,
    load_extra_values,
    merge,
    own_keys,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.kubernetes.manifests import read_yaml
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.planning.chart_split import CONTROL_PLANE, OLD
from prefect_linkerd.mesh.planning.losses import ReleaseChange


@dataclass(frozen=True)
class Comparison:
    """A desired release, and the installed revision that it would replace.

    `before` is None if nothing is installed; for the control plane it may be 2.11's single chart.
    `is_settled` says that the run will write nothing of this release.
    """

    desired: DesiredRelease
    before: Revision | None = field(repr=False)
    is_ours: bool
    is_settled: bool = False

    @property
    def keeps_newer_crds(self) -> bool:
        chart, before = self.desired.chart, self.before
        return before is not None and has_newer_crds(
            (before.chart, before.chart_version), (chart.name, chart.version)
        )

    @property
    def has_comparable_values(self) -> bool:
        """Whether the old revision has values of this chart; CRDs split from 2.11's have none."""
        chart, before = self.desired.chart.name, self.before
        if before is None or self.keeps_newer_crds:
            return False
        return before.chart == chart or (before.chart, chart) == (OLD, CONTROL_PLANE)

    @property
    def present(self) -> tuple[Object, ...]:
        """The installed objects that Helm merges the next manifest with; it may lack some."""
        if self.before is None:
            return ()
        if self.before.chart == OLD and self.desired.chart.name == CONTROL_PLANE:
            # The split hands over neither CRDs nor the namespace (`planning.chart_split`).
            kinds = (CRD, "Namespace")
            return tuple(obj for obj in self.before.manifest if obj["kind"] not in kinds)
        return self.before.manifest


def read_changes(
    mesh: Mesh,
    source: MeshConfig,
    comparisons: Sequence[Comparison],
    facts: ClusterFacts,
    *,
    keeps_crds: bool = False,
) -> list[ReleaseChange]:
    """How each release would change; writes nothing.

    A settled release is neither rendered nor compared with the cluster's objects. A new release in
    a namespace that does not exist yet is only rendered: its objects cannot exist either.

    Args:
        mesh: its configuration is at the wanted version.
        source: the configuration at the installed version.
        keeps_crds: whether CRDs are marked to be kept before Helm could delete one.

    Raises:
        InvalidInput: a values file cannot be read.
        ReleaseError: a chart cannot be rendered.
    """
    own = {ReleaseRef(c.desired.name, c.desired.namespace) for c in comparisons}
    own |= {c.before.ref for c in comparisons if c.before is not None}

    def read(comparison: Comparison) -> ReleaseChange:
        return _change(mesh, source, comparison, facts, own, keeps_crds)

    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(read, comparisons))


def _change(
    mesh: Mesh,
    source: MeshConfig,
    comparison: Comparison,
    facts: ClusterFacts,
    own: Collection[ReleaseRef],
    keeps_crds: bool,
) -> ReleaseChange:
    desired, before = comparison.desired, comparison.before
    chart = desired.chart
    present = chart_of(before) if before is not None else None
    rendered: Sequence[Object] = before.manifest if before is not None else ()
    objects: tuple[Any, ...] = ()
    if not comparison.is_settled:
        crds = own_folder_crds(mesh.cluster, chart)
        theirs = {crd["metadata"]["name"] for crd in folder_crds(chart) if crd not in crds}
        rendered = [
            obj
            for obj in mesh.helm.render(
                chart, desired.name, desired.namespace, desired.values, facts
            )
            if obj["kind"] != CRD or obj["metadata"]["name"] not in theirs
        ]
        if before is not None or mesh.cluster.get("v1", "Namespace", desired.namespace):
            objects = tuple(
                object_changes(
                    mesh.cluster,
                    desired.namespace,
                    # Helm records no owner for a folder's CRDs, so none of them counts as new.
                    (*comparison.present, *crds),
                    rendered,
                    own,
                    keeps_crds=keeps_crds,
                )
            )
    return ReleaseChange(
        chart=chart.name,
        version=chart.version,
        before=before if comparison.has_comparable_values else None,
        is_ours=comparison.is_ours,
        defaults=chart.defaults,
        values=desired.values,
        extra=merge(*load_extra_values(extra_of(chart.name, mesh.config))),
        computed=computed_values(present, source, facts) if present is not None else {},
        own_keys=own_keys(present, source, facts) if present is not None else frozenset(),
        objects=objects,
        rendered=tuple(rendered),
        unsafe=desired.unsafe,
    )


def installed_crds(
    cluster: Cluster, installed: Mapping[str, Revision], charts: Sequence[Chart]
) -> list[Object]:
    """The installed CRDs of the mesh's releases.

    The CRDs of a chart's `crds/` folder are in no Helm manifest, so they are read from the cluster.

    Args:
        installed: the releases' deployed revisions, by chart.
        charts: the wanted charts.
    """
    found = [obj for r in installed.values() for obj in r.manifest if obj["kind"] == CRD]
    for chart in charts:
        if chart.name in installed:
            names = [crd["metadata"]["name"] for crd in own_folder_crds(cluster, chart)]
            there = (cluster.get("apiextensions.k8s.io/v1", CRD, name) for name in names)
            found += [obj for obj in there if obj is not None]
    return found


def chart_of(revision: Revision) -> Chart | None:
    """The chart of a revision, with what values are computed from; None for an unknown chart.

    Read from Helm's own record, because a repository may no longer have old charts.
    """
    name = cast("ChartName", revision.chart)
    if name not in (*FIELDS, "linkerd-crds"):
        return None
    return Chart(
        name=name,
        version=revision.chart_version,
        app_version=revision.app_version,
        kube_version="",
        source="",
        path=Path(),
        defaults=revision.defaults,
        ha=_ha(revision.content.get("chart", {}).get("files") or ()),
    )


def _ha(files: Iterable[dict[str, Any]]) -> Values:
    """The content of `values-ha.yaml` among a chart's files in Helm's record."""
    for file in files:
        if file.get("name") == "values-ha.yaml":
            try:
                content = read_yaml(base64.b64decode(str(file.get("data") or "")))
            except (ValueError, yaml.YAMLError):
                return {}
            return cast("Values", content) if isinstance(content, dict) else {}
    return {}
