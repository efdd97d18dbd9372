"""The mesh's current state, for people: versions, releases, certificates, unfinished work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.installed import MeshReleases, read_mesh_releases
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.helm.rehearsal import HEAD
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.records.rotation import read_record as read_rotation
from prefect_linkerd.mesh.records.upgrade import UpgradeRecord
from prefect_linkerd.mesh.records.upgrade import read_record as read_upgrade
from prefect_linkerd.mesh.snapshot.expiry import Expiry, read_expiries
from prefect_linkerd.mesh.snapshot.mesh import release_namespaces


@dataclass(frozen=True)
class Status:
    """A mesh's state, as read from its cluster.

    `linkerd` is the version of the control plane's release, empty if Helm did not install it;
    `owner` says who owns the control plane. `rotation` and `upgrade` are unfinished ones, if any.
    `is_rehearsal`: the mesh was installed from stand-ins for Linkerd's charts.
    """

    mesh: str
    kubernetes: str
    linkerd: str
    configured: str
    owner: str
    releases: tuple[Release, ...]
    expiries: tuple[Expiry, ...]
    rotation: RotationRecord | None
    upgrade: UpgradeRecord | None
    is_rehearsal: bool = False


def read_status(mesh: Mesh) -> Status:
    """Reads a mesh; changes nothing.

    Raises:
        ApiError: the API server did not respond, or refused a read.
    """
    rotation = read_rotation(mesh.cluster, mesh.config.namespaces.linkerd)
    return decide_status(
        mesh.config,
        mesh.cluster.version(),
        read_mesh_releases(mesh.cluster, mesh.config, namespaces=release_namespaces(mesh)),
        read_expiries(mesh),
        rotation,
        read_upgrade(mesh),
        is_rehearsal=mesh.is_rehearsal,
    )


def decide_status(
    config: MeshConfig,
    kubernetes: str,
    installed: MeshReleases,
    expiries: Sequence[Expiry],
    rotation: RotationRecord | None,
    upgrade: UpgradeRecord | None,
    *,
    is_rehearsal: bool = False,
) -> Status:
    """Builds the status from what was read."""
    control_plane = installed.control_plane
    return Status(
        mesh=config.name,
        kubernetes=kubernetes,
        linkerd=control_plane.app_version if control_plane else "",
        configured=str(config.linkerd),
        owner=str(installed.driver) if installed.driver else "",
        releases=tuple(installed.releases.values()),
        expiries=tuple(expiries),
        rotation=rotation if rotation is not None and rotation.is_open else None,
        upgrade=upgrade,
        is_rehearsal=is_rehearsal,
    )


def status_rows(status: Status) -> list[tuple[str, str]]:
    """Returns a status as pairs of heading and line; a heading that would repeat is empty."""
    owner = f" ({status.owner})" if status.owner else ""
    rows = [
        *([(HEAD.partition(":")[0], HEAD.partition(": ")[2])] if status.is_rehearsal else []),
        ("mesh", status.mesh),
        ("kubernetes", status.kubernetes),
        ("linkerd", f"{status.linkerd or 'not installed by Helm'}{owner}"),
    ]
    if status.linkerd and status.configured != status.linkerd:
        rows.append(("", f"the mesh's file wants {status.configured}"))
    rows += _named(
        "releases",
        [f"{r.ref}: {r.chart} {r.chart_version}, {r.status}" for r in status.releases] or ["none"],
    )
    rows += _named("certificates", [_certificate(e) for e in status.expiries] or ["none"])
    return rows + _unfinished(status)


def _certificate(expiry: Expiry) -> str:
    renewed = f", renewed by {expiry.renewed_by}" if expiry.renewed_by else ""
    ended = "expired" if expiry.days_left <= 0 else f"{expiry.days_left:.0f} days left"
    return f"{expiry.name}: {ended}, until {expiry.info.not_after:%Y-%m-%d}{renewed}"


def _unfinished(status: Status) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if (rotation := status.rotation) is not None:
        begun = datetime.fromisoformat(rotation.begun)
        going = "back to" if rotation.is_going_back else "to"
        rows += [
            ("rotation", f"begun {begun:%Y-%m-%d %H:%M} UTC, in phase {rotation.phase}, not done"),
            ("", f"{going} trust anchor sha256 {rotation.goal}"),
            ("", "resume: rotate-anchor; give up: rotate-anchor --action abort"),
        ]
    if (upgrade := status.upgrade) is not None:
        going = "going back" if upgrade.direction == "back" else "not done"
        resume = "resume: upgrade"
        if upgrade.direction == "forward":
            resume += "; give up: upgrade --go-back"
        rows += [
            (
                "upgrade",
                f"from {upgrade.source} to {upgrade.target}, begun "
                f"{upgrade.started:%Y-%m-%d %H:%M} UTC, {going}",
            ),
            *([("", upgrade.reason)] if upgrade.reason else []),
            ("", resume),
        ]
    return rows or [("unfinished", "nothing")]


def _named(name: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(name if number == 0 else "", line) for number, line in enumerate(lines)]


def status_json(status: Status) -> dict[str, Any]:
    """Returns a status for programs; leaves out releases' values and certificates' keys."""
    return {
        "rehearsal": status.is_rehearsal,
        "mesh": status.mesh,
        "kubernetes": status.kubernetes,
        "linkerd": status.linkerd,
        "configured": status.configured,
        "owner": status.owner,
        "releases": [
            {
                "name": r.name,
                "namespace": r.namespace,
                "chart": r.chart,
                "version": r.chart_version,
                "revision": r.revision,
                "status": r.status,
            }
            for r in status.releases
        ],
        "certificates": [
            {
                "name": e.name,
                "object": e.subject,
                "not_after": e.info.not_after.isoformat(),
                "days_left": round(e.days_left, 2),
                "renewed_by": e.renewed_by,
            }
            for e in status.expiries
        ],
        "rotation": None
        if (r := status.rotation) is None
        else {"phase": r.phase, "begun": r.begun, "goal": r.goal, "back": r.is_going_back},
        "upgrade": None
        if (u := status.upgrade) is None
        else {
            "source": u.source,
            "target": u.target,
            "started": u.started.isoformat(),
            "direction": u.direction,
            "reason": u.reason,
        },
    }
