"""What an interrupted upgrade needs to resume or roll back: one ConfigMap in the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, MeshBusy
from prefect_linkerd.mesh.helm.records import Revision
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Object
from prefect_linkerd.mesh.mesh import Mesh

NAME = "prefect-linkerd-upgrade"
KEY = "upgrade.json"


class RecordedRelease(BaseModel):
    """A release before the upgrade; its values are in Helm's record of the revision.

    `part` names the part of the mesh that it installs. It is empty in records of older versions,
    where the chart's name stands for it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    namespace: str
    chart: str
    chart_version: str
    revision: int
    part: str = ""

    @classmethod
    def of(cls, part: str, revision: Revision) -> Self:
        """Records a revision of a part of the mesh to roll back to."""
        return cls(
            name=revision.name,
            namespace=revision.namespace,
            chart=revision.chart,
            chart_version=revision.chart_version,
            revision=revision.number,
            part=part,
        )

    @property
    def stands_for(self) -> str:
        return self.part or self.chart


class UpgradeRecord(BaseModel):
    """An upgrade in progress. `reason` says why it is rolled back, if it is.

    `was_completed` says that it had finished before somebody asked to roll it back.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    target: str
    started: datetime
    releases: tuple[RecordedRelease, ...]
    direction: Literal["forward", "back"] = "forward"
    reason: str = ""
    was_completed: bool = False
    control_plane_since: datetime | None = None
    """When the control plane was ready at the target version, which starts the soak."""
    left_crds: tuple[str, ...] = ()
    """CRDs of 2.11's chart that no new release has, once the old release's record is deleted."""

    def release(self, part: str) -> RecordedRelease | None:
        return next((release for release in self.releases if release.stands_for == part), None)


def read_record(mesh: Mesh) -> UpgradeRecord | None:
    """The upgrade that is in progress, or None."""
    return record_of(mesh.cluster.get("v1", "ConfigMap", NAME, mesh.config.namespaces.linkerd))


def record_of(obj: Object | None) -> UpgradeRecord | None:
    """The upgrade recorded in a ConfigMap, or None."""
    return UpgradeRecord.model_validate_json(obj["data"][KEY]) if obj is not None else None


def begin(mesh: Mesh, record: UpgradeRecord) -> UpgradeRecord:
    """Writes the record of a new upgrade, or returns an existing one with the same target.

    Raises:
        MeshBusy: an upgrade to another version is in progress.
    """
    try:
        mesh.cluster.create(_config_map(mesh.config, record))
    except ApiError as error:
        if error.status != 409:
            raise
    else:
        return record
    found = read_record(mesh)
    if found is None or found.target != record.target:
        raise another_target(mesh.config, found)
    return found


def another_target(config: MeshConfig, found: UpgradeRecord | None) -> MeshBusy:
    """The error that an upgrade to another version is unfinished."""
    return MeshBusy(
        f"ConfigMap/{config.namespaces.linkerd}/{NAME}",
        expected="no upgrade in progress, or one to the same version",
        found=f"one to {found.target}" if found else "one that has just finished",
        remedy="Finish it by running upgrade with its version, or with go_back."
        if found
        else "Run upgrade again.",
    )


def changed_meanwhile(
    config: MeshConfig, planned: Mapping[str, int], found: Mapping[str, int]
) -> MeshBusy:
    """The error that the releases have changed since an upgrade was planned."""

    def revisions(of: Mapping[str, int]) -> str:
        return ", ".join(f"{part} at revision {number}" for part, number in sorted(of.items()))

    return MeshBusy(
        f"mesh {config.name}",
        expected=f"the releases that the upgrade was planned for: {revisions(planned)}",
        found=f"{revisions(found) or 'none'}: another run has changed them since",
        remedy="Run upgrade again: it makes a new plan.",
    )


def write_record(mesh: Mesh, record: UpgradeRecord) -> UpgradeRecord:
    mesh.cluster.apply(_config_map(mesh.config, record))
    return record


def end(mesh: Mesh) -> None:
    """Deletes the record of an upgrade that is finished or rolled back."""
    mesh.cluster.delete("v1", "ConfigMap", NAME, mesh.config.namespaces.linkerd)


def _config_map(config: MeshConfig, record: UpgradeRecord) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": config.namespaces.linkerd, "labels": MADE_HERE},
        "data": {KEY: record.model_dump_json(indent=2)},
    }
