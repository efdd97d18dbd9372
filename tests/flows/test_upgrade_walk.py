"""`upgrade` from 2.11 to the newest edge, hop by hop, on one mesh with all that is in it."""

from __future__ import annotations

import pytest

from prefect_linkerd.mesh.records.upgrade import NAME as RECORD
from tests.support.flows import Flows, ReadyWholeMesh
from tests.support.upgrades import (
    HOPS,
    make_custom_resources,
    proxies,
    releases,
    that_must_survive,
)


@pytest.mark.timeout(1500)
def test_from_2_11_to_the_newest_edge(ready_whole_mesh: ReadyWholeMesh, flows: Flows) -> None:
    first = HOPS[0][0]
    sandbox, config = ready_whole_mesh(name="walk", version=first)
    cluster = sandbox.cluster()
    make_custom_resources(cluster, first)
    before = that_must_survive(cluster)
    installed = releases(cluster)

    skipping = flows.upgrade(config, to="stable-2.14.10")
    assert skipping["error"] == "InvalidInput"
    assert "skips stable-2.12" in skipping["message"]
    unaccepted = flows.upgrade(config, to="stable-2.12.6")
    assert unaccepted["error"] == "PreflightFailed"
    assert "TrafficSplit/emojivoto/web" in unaccepted["message"]

    dry = flows.upgrade(config, to="stable-2.12.6", dry_run=True, accept=["smi"])
    assert (dry["source"], dry["target"]) == HOPS[0]
    plan = flows.report("linkerd-walk-upgrade-plan")
    for part in (
        "| linkerd-control-plane | split | 2.11.5 | 1.9.8 |",
        "| linkerd-viz | upgrade | 2.11.5 | 30.3.8 |",
        "| trafficsplits.split.smi-spec.io | kept |",
        "## Values of linkerd-control-plane",
        "| Deployment/linkerd/linkerd-destination | update |",
        "-        image: cr.l5d.io/linkerd/controller:stable-2.11.5",
        "+        image: cr.l5d.io/linkerd/controller:stable-2.12.6",
        "## Instead of TrafficSplit/emojivoto/web",
    ):
        assert part in plan, part
    # Neither what is refused nor what is only planned touches anything.
    assert releases(cluster) == installed
    assert that_must_survive(cluster) == before

    for source, target in HOPS:
        done = flows.upgrade({**config, "version": source}, to=target, accept=["smi"])
        assert (done.get("source"), done.get("target")) == (source, target), done
        assert proxies(cluster) == {target}
        assert before.items() <= that_must_survive(cluster).items()
        assert {status for _, _, status in releases(cluster).values()} == {"deployed"}
        assert "linkerd2" not in releases(cluster)
        assert cluster.get("v1", "ConfigMap", RECORD, "linkerd") is None
        page = flows.report("linkerd-walk-upgrade")
        assert f"upgraded to {target}" in page
        assert "## Verified" in page

    arrived = {**config, "version": target}
    assert flows.upgrade(arrived, to=target)["done"]
    assert flows.upgrade(arrived, to="edge-25.4.4")["error"] == "InvalidInput"
