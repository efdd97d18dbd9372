"""Each hop of `upgrade` alone, on a mesh that was installed at its start: failed, undone, done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.records.rotation import RotationClaim
from prefect_linkerd.mesh.records.upgrade import NAME as RECORD
from tests.flows.faults import READY
from tests.support.flows import ConfigFactory, Flows
from tests.support.ready_meshes import ReadyMesh
from tests.support.upgrades import (
    APP,
    HOPS,
    are_at,
    give_application,
    installed_alone,
    proxies,
    releases,
    that_must_survive,
)

CLAIMED = HOPS[2]
"""The hop that another run holds the mesh before."""
HOLDER = "flow run upgrade-elsewhere"

Fail = Callable[[Flows, dict[str, Any], Cluster, str], dict[str, Any]]
"""Runs an upgrade that fails one of its gates."""


def restart_fails(
    flows: Flows, config: dict[str, Any], _cluster: Cluster, target: str
) -> dict[str, Any]:
    """New pods of the application keep the old proxy."""
    undone = flows.upgrade(config, to=target, accept=["smi"], lag=("data plane", config["version"]))
    assert f"Deployment/{APP}/emoji" in undone.get("message", ""), undone
    return undone


def checks_fail(
    flows: Flows, config: dict[str, Any], _cluster: Cluster, target: str
) -> dict[str, Any]:
    """The new control plane falls ill once every proxy is new."""
    undone = flows.upgrade(config, to=target, ill=("verify", 2, "linkerd"))
    assert "is failed: " in undone.get("message", ""), undone
    assert "linkerd-destination" in undone.get("message", ""), undone
    return undone


def release_fails(
    flows: Flows, config: dict[str, Any], _cluster: Cluster, target: str
) -> dict[str, Any]:
    """The new control plane does not come up in time."""
    ill: dict[str, Any] = {"inline": {"podAnnotations": {READY: "false"}}}
    undone = flows.upgrade({**config, "values": ill, "timeout_seconds": 30}, to=target)
    assert "Helm release linkerd/linkerd-control-plane" in undone.get("message", ""), undone
    return undone


@contextmanager
def held_by_a_run_that_dies(
    flows: Flows, config: dict[str, Any], cluster: Cluster, target: str
) -> Iterator[None]:
    """Another run has the mesh, from wherever: a second one is refused. In the block it is dead."""
    installed = releases(cluster)
    with RotationClaim(cluster, "linkerd", HOLDER, 3) as elsewhere:
        refused = flows.upgrade(config, to=target)
        assert refused["error"] == "MeshBusy", refused
        assert HOLDER in refused["message"]
        assert releases(cluster) == installed
        # Its plan can be read all the same.
        assert flows.upgrade(config, to=target, dry_run=True)["target"] == target
        # It dies: its lease is not renewed, and not given back either.
        elsewhere._over.set()
        elsewhere._thread.join()
        yield


@pytest.mark.parametrize(
    ("source", "target", "fail"),
    [
        pytest.param(*hop, fail, id=hop[1])
        for hop, fail in zip(
            HOPS,
            [restart_fails, checks_fail, release_fails, restart_fails, checks_fail],
            strict=True,
        )
    ],
)
def test_a_hop_that_fails_goes_back_and_then_succeeds(
    source: str,
    target: str,
    fail: Fail,
    ready_mesh: ReadyMesh,
    mesh_config: ConfigFactory,
    flows: Flows,
) -> None:
    sandbox, config = installed_alone(
        ready_mesh,
        mesh_config,
        name=target.replace(".", "-"),
        version=source,
        upgrade={"settle_seconds": 3},
    )
    cluster = sandbox.cluster()
    before, installed = give_application(cluster, config), releases(cluster)

    undone = fail(flows, config, cluster, target)

    assert undone["error"] == "UpgradeUndone", undone
    assert f"It is at {source} again" in undone.get("message", ""), undone
    assert proxies(cluster) == {source}
    # CRDs alone stay newer, as all custom resources live by them.
    assert {**releases(cluster), "linkerd-crds": None} == {**installed, "linkerd-crds": None}
    assert before.items() <= that_must_survive(cluster).items()
    assert cluster.get("v1", "ConfigMap", RECORD, "linkerd") is None

    is_claimed = (source, target) == CLAIMED
    with held_by_a_run_that_dies(flows, config, cluster, target) if is_claimed else nullcontext():
        done = flows.upgrade(config, to=target, accept=["smi"])

    assert (done.get("source"), done.get("target")) == (source, target), done
    assert proxies(cluster) == {target}
    assert before.items() <= that_must_survive(cluster).items()
    assert are_at(cluster, target)
    assert cluster.get("v1", "ConfigMap", RECORD, "linkerd") is None

    if (source, target) != HOPS[-1]:
        return
    # Completed, and yet not wanted: back to the revisions that Helm has kept.
    assert flows.upgrade(config, go_back=True) == {"done": True}
    assert proxies(cluster) == {source}
    assert {**releases(cluster), "linkerd-crds": None} == {**installed, "linkerd-crds": None}
    assert before.items() <= that_must_survive(cluster).items()
    assert cluster.get("v1", "ConfigMap", RECORD, "linkerd") is None
    again = flows.upgrade(config, go_back=True)
    assert again["error"] == "PreflightFailed", again
    assert "Helm keeps no revision of linkerd-control-plane" in again["message"], again
