"""The schedules of every mesh, copied from those that prefect.yaml has for block `mesh`."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule

from prefect_linkerd.tasks.linkerd_mesh import reference

PATTERN = "mesh"
"""The name of the Linkerd Mesh block whose schedules are copied for every other mesh."""

SPREAD = timedelta(minutes=15)
"""The runs of many meshes are spread over this time, so that they do not all start at once."""


def read_pattern(prefect_yaml: Path) -> dict[str, list[dict[str, Any]]]:
    """The schedules of block `mesh` in prefect.yaml, by deployment name."""
    content: dict[str, Any] = yaml.safe_load(prefect_yaml.read_text())
    found: dict[str, list[dict[str, Any]]] = {}
    for deployment in content["deployments"]:
        schedules = [
            schedule
            for schedule in deployment.get("schedules", [])
            if schedule.get("parameters", {}).get("mesh") == reference(PATTERN)
        ]
        if schedules:
            found[deployment["name"]] = schedules
    return found


def schedule_of(block: str, pattern: Mapping[str, Any]) -> DeploymentScheduleCreate:
    """A schedule of block `mesh` for another mesh, delayed by a hash of the block's name.

    Args:
        block: the name of the other mesh's block.
        pattern: the schedule from prefect.yaml, with `interval` (seconds) and `anchor_date`.
    """
    later = timedelta(seconds=zlib.crc32(block.encode()) % int(SPREAD.total_seconds()))
    schedule = IntervalSchedule.model_validate(
        {"interval": pattern["interval"], "anchor_date": pattern["anchor_date"]}
    )
    schedule.anchor_date += later
    return DeploymentScheduleCreate(
        slug=block + pattern["slug"].removeprefix(PATTERN),
        schedule=schedule,
        parameters={**pattern["parameters"], "mesh": reference(block)},
    )
