"""Restarts the data plane while the probe sends requests; leaves the probe's own pods alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.restarts import (
    Batch,
    DataPlane,
    Needs,
    Restarted,
    RestartPolicy,
    restart_data_plane,
)


def restart_with_probe(
    probe: Probe,
    phase: str,
    cluster: Cluster,
    read: Callable[[], DataPlane],
    judge: Callable[[DataPlane], Needs],
    policy: RestartPolicy,
    *,
    before_batch: Callable[[Batch], None] = lambda _: None,
    **options: Any,
) -> Restarted:
    """Calls `restart_data_plane`; stops before the next batch if the probe's requests fail.

    Instead of restarting the probe's pods, starts a new generation: once the control plane is
    restarted, because its injector gives new pods the anchors that they trust, and only if the
    newest generation needs a restart. The older generations end after the last batch.

    Args:
        phase: what the restarts are for; the generation is named after it.
        options: passed to `restart_data_plane`.

    Raises:
        NotReady: see `restart_data_plane` and `Probe.arrive`.
        RequestsFailed: more requests failed than allowed.
    """
    if not probe.asks:
        return restart_data_plane(
            cluster, read, judge, policy, before_batch=before_batch, **options
        )
    is_stale = False
    number = 0

    def judge_others(data_plane: DataPlane) -> Needs:
        nonlocal is_stale
        needs = judge(data_plane)
        is_stale = any(needs(pod) for pod in data_plane.pods if probe.is_newest(pod))
        return lambda pod: not probe.is_own(pod) and needs(pod)

    def arrive() -> None:
        nonlocal is_stale
        if is_stale:
            is_stale = False
            probe.arrive(phase)

    def before(batch: Batch) -> None:
        nonlocal number
        number += 1
        if batch.stage != "control plane":
            arrive()
        probe.check(f"{phase}, before batch {number}")
        before_batch(batch)

    done = restart_data_plane(cluster, read, judge_others, policy, before_batch=before, **options)
    arrive()
    probe.leave(phase)
    return done
