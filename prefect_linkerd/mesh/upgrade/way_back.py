"""The way back of an upgrade: the steps from the mesh's current state to the recorded one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS
from prefect_linkerd.mesh.planning.chart_split import CONTROL_PLANE, CRDS, OLD
from prefect_linkerd.mesh.records.upgrade import RecordedRelease, UpgradeRecord


@dataclass(frozen=True)
class BackStep:
    """One step: rolls a `part` of the mesh back to its `release`, or undoes the chart split.

    `restore` recreates the record of 2.11's release if the split was finished; `unsplit` rolls the
    new control plane back to its first revision, which holds the old chart's objects; `give back`
    makes the old release their owner again.
    """

    action: Literal["restore", "unsplit", "give back", "roll back"]
    part: str
    release: RecordedRelease


def way_back(record: UpgradeRecord, present: Collection[str]) -> list[BackStep]:
    """The steps of the way back, in order; each can be repeated.

    CRDs stay as they are: newer ones serve everything that older control planes ask for, and
    deleting one would delete its custom resources.

    Args:
        present: the parts of the mesh that are installed as releases now.
    """
    steps: list[BackStep] = []
    old = record.release(OLD)
    if old is not None:
        if OLD not in present:
            steps.append(BackStep("restore", OLD, old))
        if CONTROL_PLANE in present:
            steps.append(BackStep("unsplit", CONTROL_PLANE, old))
        steps.append(BackStep("give back", OLD, old))
    rest = [kept for kept in record.releases if kept.stands_for not in (OLD, CRDS)]
    return steps + [
        BackStep("roll back", kept.stands_for, kept) for kept in sorted(rest, key=_order)
    ]


def _order(release: RecordedRelease) -> int:
    order = (CONTROL_PLANE, *EXTENSION_CHARTS)
    part = release.stands_for
    return order.index(part) if part in order else len(order)
