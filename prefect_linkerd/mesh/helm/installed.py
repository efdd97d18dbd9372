"""Finds a mesh's Helm releases by their charts, whatever their names and namespaces.

The user of `helm install` chooses a release's name, Flux may keep a release's records in another
namespace than its objects, and Argo CD creates no release at all. So a release is recognized by its
chart and by where it puts its objects, and a part without a release by who owns its objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.ownership import Owner, owner_of, owner_of_release, release_of
from prefect_linkerd.mesh.helm.records import Release, ReleaseRef, read_release, read_releases
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS, LINKERD_CHARTS, LinkerdChart

T = TypeVar("T")

Part = LinkerdChart
"""A part of the mesh, by the chart that installs it."""

PARTS: tuple[Part, ...] = LINKERD_CHARTS

_CRD = "apiextensions.k8s.io/v1", "CustomResourceDefinition", "serviceprofiles.linkerd.io"
_DESTINATION = "apps/v1", "Deployment", "linkerd-destination"
MARKS: dict[Part, tuple[str, str, str]] = {
    "linkerd2": _DESTINATION,
    "linkerd-crds": _CRD,
    "linkerd-control-plane": _DESTINATION,
    "linkerd-viz": ("apps/v1", "Deployment", "web"),
    "linkerd-jaeger": ("apps/v1", "Deployment", "jaeger-injector"),
}
"""For each part an object that every version of its chart creates, and that shows its owner."""


@dataclass(frozen=True)
class MeshReleases:
    """The mesh's releases and owners, by part; a part that is not installed is in neither.

    A part with an owner but no release was not installed by Helm, or its records cannot be read.
    `others` are the releases that were read and are not part of the mesh.
    """

    releases: Mapping[Part, Release]
    owners: Mapping[Part, Owner]
    others: tuple[Release, ...] = ()

    @property
    def all(self) -> tuple[Release, ...]:
        """Every release that was read."""
        return (*self.releases.values(), *self.others)

    @property
    def control_plane(self) -> Release | None:
        return _of_control_plane(self.releases)

    @property
    def driver(self) -> Owner | None:
        """Who owns the control plane; None if it is not installed."""
        return _of_control_plane(self.owners)

    def owner(self, chart: str) -> Owner | None:
        """Who owns what a chart installs; None if that is missing, or not part of the mesh."""
        return next((owner for part, owner in self.owners.items() if part == chart), None)

    def ref(self, chart: str) -> ReleaseRef | None:
        """Where a chart's release is; None if it is not installed."""
        found = next((r for part, r in self.releases.items() if part == chart), None)
        return found.ref if found is not None else None


def _of_control_plane(found: Mapping[Part, T]) -> T | None:
    """The control plane's entry, that of the newer chart if both are there."""
    return next((found[part] for part in reversed(CONTROL_PLANE_CHARTS) if part in found), None)


def part_of(release: Release, config: MeshConfig) -> Part | None:
    """Which part of this mesh a release is, if any.

    A release named like a part is that part, whatever its chart: during an upgrade from 2.11 to
    2.12 the first revisions of the new releases still have the old chart.
    """
    for part in PARTS:
        place = config.namespaces.of_chart(part)
        if release.name == part and place in (release.namespace, release.place):
            return part
    for part in PARTS:
        # CRDs belong to the whole cluster, whatever namespace their release is in.
        if release.chart == part and (
            part == "linkerd-crds" or release.place == config.namespaces.of_chart(part)
        ):
            return part
    return None


def mesh_releases(
    config: MeshConfig, releases: Iterable[Release], marks: Mapping[Part, Object]
) -> MeshReleases:
    """Picks the mesh's own releases, and finds their owners.

    Args:
        marks: the live object of `MARKS` for each part that has it.
    """
    found: dict[Part, Release] = {}
    others: list[Release] = []
    # Of several releases of a chart an installed one wins, then one that is named like the chart.
    for release in sorted(releases, key=lambda r: (r.status == "uninstalled", r.name != r.chart)):
        part = part_of(release, config)
        if part is None or part in found:
            others.append(release)
        else:
            found[part] = release
    owners: dict[Part, Owner] = {}
    for part in PARTS:
        if part in found:
            mark = marks.get(part)
            owners[part] = owner_of_release(found[part], [mark] if mark is not None else ())
    installed = {MARKS[part] for part in found}
    for part, mark in marks.items():
        if MARKS[part] not in installed and part != "linkerd2":
            owners[part] = owner_of(mark)
    return MeshReleases(found, owners, tuple(others))


def parts_of(config: MeshConfig) -> tuple[Part, ...]:
    """The parts that a configuration enables, for any version of Linkerd."""
    left_out = {"linkerd-viz": config.viz.enabled, "linkerd-jaeger": config.jaeger.enabled}
    return tuple(part for part in PARTS if left_out.get(part, True))


def read_marks(cluster: Cluster, config: MeshConfig, parts: Iterable[Part]) -> dict[Part, Object]:
    """The live objects of `MARKS` for some parts."""
    found: dict[Part, Object] = {}
    for part in parts:
        api_version, kind, name = MARKS[part]
        place = None if part == "linkerd-crds" else config.namespaces.of_chart(part)
        # Listed, because an identity that may list a kind may not be allowed to get its objects.
        fields = f"metadata.name={name}"
        objects = cluster.list(api_version, kind, place, fields=fields, metadata_only=True)
        if (mark := next(iter(objects), None)) is not None:
            found[part] = mark
    return found


def read_mesh_releases(
    cluster: Cluster,
    config: MeshConfig,
    releases: Sequence[Release] | None = None,
    *,
    parts: Iterable[Part] | None = None,
    namespaces: Iterable[str] | None = None,
    values: bool = False,
) -> MeshReleases:
    """Reads the mesh's releases and who owns them; changes nothing.

    Args:
        releases: every release of the cluster, if they were just read.
        parts: those whose objects are read; by default all that the configuration enables.
        namespaces: where to look for releases, for identities that may not read other namespaces:
            those are tried only if the mesh's objects name a release that is in none of these.
        values: whether to read the releases' values as well, which may hold secrets.
    """
    marks = read_marks(cluster, config, parts_of(config) if parts is None else parts)
    if releases is None:
        releases = _read(cluster, namespaces, marks, values=values)
    return mesh_releases(config, releases, marks)


def locate(cluster: Cluster, config: MeshConfig, part: Part) -> ReleaseRef | None:
    """Where a part's release is, found with few reads; None if it is not installed."""
    place = config.namespaces.of_chart(part)
    found = read_release(cluster, part, place)
    if found is not None and found.status != "uninstalled":
        return found.ref
    mark = read_marks(cluster, config, [part]).get(part)
    ref = release_of(mark["metadata"].get("annotations") or {}) if mark is not None else None
    if ref is not None:
        found = read_release(cluster, ref.name, ref.namespace)
        if found is not None and part_of(found, config) == part:
            return found.ref
    return None


def _read(
    cluster: Cluster,
    namespaces: Iterable[str] | None,
    marks: Mapping[Part, Object],
    *,
    values: bool,
) -> tuple[Release, ...]:
    if namespaces is None:
        return read_releases(cluster, values=values)
    known = set(namespaces)
    found = read_releases(cluster, known, values=values)
    named = {
        ref
        for mark in marks.values()
        if (ref := release_of(mark["metadata"].get("annotations") or {})) is not None
    }
    is_known = {(r.name, r.target) for r in found}
    if all((ref.name, ref.namespace) in is_known for ref in named):
        return found
    try:
        return read_releases(cluster, values=values)
    except ApiError as error:
        if error.status != 403:
            raise
    more: list[Release] = []
    for namespace in {ref.namespace for ref in named} - known:
        try:
            more += read_releases(cluster, {namespace}, values=values)
        except ApiError as error:
            if error.status != 403:
                raise
    return (*found, *more)
