"""Unfinished rotations and upgrades of a mesh that no run is working on.

A live run holds the lease in the rotations' ConfigMap and keeps renewing it; its work is not a
finding. Once the lease has expired, the work waits to be resumed.
"""

from __future__ import annotations

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.records.rotation import RECORD as ROTATION
from prefect_linkerd.mesh.records.rotation import lease_of
from prefect_linkerd.mesh.records.rotation import record_of as rotation_of
from prefect_linkerd.mesh.records.upgrade import NAME as UPGRADE
from prefect_linkerd.mesh.records.upgrade import record_of as upgrade_of
from prefect_linkerd.mesh.snapshot.mesh import Snapshot

unfinished = Category[Snapshot]("pl-unfinished", "beyond")


@unfinished.check("pl-rotation-open", "no rotation of the trust anchor is unfinished", "warning")
def rotation_open(snapshot: Snapshot) -> Problems:
    subject, found = _config_map(snapshot, ROTATION)
    record = rotation_of(found)
    if record is not None and record.is_open:
        _skip_if_running(snapshot)
        yield Problem(
            subject,
            f"the rotation that began on {record.begun} is in phase {record.phase}, and no run "
            "is working on it",
            "Run rotate_anchor again, which finishes it, or with action abort, which goes back.",
        )


@unfinished.check("pl-upgrade-open", "no upgrade is unfinished", "warning")
def upgrade_open(snapshot: Snapshot) -> Problems:
    subject, found = _config_map(snapshot, UPGRADE)
    if (record := upgrade_of(found)) is None:
        return
    _skip_if_running(snapshot)
    began = f"that began on {record.started:%Y-%m-%d %H:%M} UTC"
    if record.direction == "back":
        yield Problem(
            subject,
            f"the upgrade to {record.target} {began} is going back to {record.source}, and no run "
            f"continues it: {record.reason}",
            "Run upgrade again, which finishes going back.",
        )
    else:
        yield Problem(
            subject,
            f"the upgrade from {record.source} to {record.target} {began} is not finished, and no "
            "run continues it",
            "Run upgrade again, which finishes it, or with go_back, which gives it up.",
        )


def _config_map(snapshot: Snapshot, name: str) -> tuple[str, Object | None]:
    key = f"{snapshot.config.namespaces.linkerd}/{name}"
    return f"ConfigMap/{key}", snapshot.config_maps.get(key)


def _skip_if_running(snapshot: Snapshot) -> None:
    # Rotations and upgrades share one lease.
    _, found = _config_map(snapshot, ROTATION)
    if (lease := lease_of(found, snapshot.now)) is not None:
        raise Skip(f"{lease.holder} is at work (its lease expires at {lease.until:%H:%M:%S} UTC)")
