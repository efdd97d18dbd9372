"""`upgrade` from 2.11 to the newest edge on one mesh with all extensions.

Each hop first fails and is undone, and then succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.helm.records import revisions, secret_name
from prefect_linkerd.mesh.linkerd.releases import chart_version
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.records.rotation import RotationClaim
from prefect_linkerd.mesh.records.upgrade import NAME as RECORD
from sandbox.cluster import Sandbox
from tests.flows.faults import READY
from tests.support.flows import Flows, WholeMesh
from tests.support.upgrades import (
    APP,
    HOPS,
    make_custom_resources,
    proxies,
    releases,
    that_must_survive,
)

# All tests share one mesh, in this order: installing one for each hop would cost as much as the
# hops themselves.
pytestmark = [pytest.mark.timeout(1500), pytest.mark.xdist_group("walk")]

CLAIMED = HOPS[2]
"""The hop before which another run holds the mesh."""
HOLDER = "flow run upgrade-elsewhere"
NAMESPACES = {"linkerd-control-plane": "linkerd", "linkerd-viz": "linkerd-viz"}
BESIDE_CRDS = {"linkerd-crds": None}
"""Only the CRDs stay newer when an upgrade is undone, as all custom resources depend on them."""


class Walk:
    """One mesh, which each test uses in the state that the test before left.

    `installed` are the releases on arrival at the current version; `left` are those of the version
    before.
    """

    def __init__(self, sandbox: Sandbox, config: dict[str, Any], flows: Flows) -> None:
        self.cluster, self.config, self.flows = sandbox.cluster(), config, flows
        self._before = that_must_survive(self.cluster)
        self.left = self.installed = releases(self.cluster)

    def upgrade(self, to: str, **options: Any) -> dict[str, Any]:
        return self.flows.upgrade(self.config, to=to, accept=["smi"], **options)

    def arrive(self, version: str) -> None:
        """Records arrival at a version; nothing that this version has may be lost from here on.

        Deletes Helm's revisions from before the hop: upgrades go back one hop only, and each Helm
        process reads the whole history.
        """
        self.lost_nothing()
        self._before = that_must_survive(self.cluster)
        hop = (self.config["version"], version)
        for name, namespace in NAMESPACES.items():
            for each in revisions(self.cluster, name, namespace):
                if each.app_version not in hop:
                    self.cluster.delete("v1", "Secret", secret_name(name, each.number), namespace)
        self.config["version"] = version
        self.left, self.installed = self.installed, releases(self.cluster)

    def lost_nothing(self) -> None:
        assert self._before.items() <= that_must_survive(self.cluster).items()
        assert self.cluster.get("v1", "ConfigMap", RECORD, "linkerd") is None

    def report_rolled_back(self, to: str, had: dict[str, tuple[str, str, str]]) -> None:
        assert proxies(self.cluster) == {to}
        assert {**releases(self.cluster), **BESIDE_CRDS} == {**had, **BESIDE_CRDS}
        self.lost_nothing()

    def go_to(self, version: str) -> None:
        """Upgrades to a version, if the tests that do this were not run."""
        for source, target in HOPS:
            if self.config["version"] != version and self.config["version"] == source:
                assert self.upgrade(target).get("target") == target
                self.arrive(target)


@pytest.fixture(scope="module")
def walk(
    whole_mesh: WholeMesh, flows: Flows, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Walk]:
    first, folder = HOPS[0][0], tmp_path_factory.mktemp("walk")
    settled = {"settle_seconds": 3}
    with whole_mesh(Path(__file__), folder, name="walk", version=first, upgrade=settled) as made:
        sandbox, config = made
        make_custom_resources(sandbox.cluster(), first)
        yield Walk(sandbox, config, flows)


def test_what_is_refused_or_only_planned_touches_nothing(walk: Walk) -> None:
    cluster, config, flows = walk.cluster, walk.config, walk.flows
    before, installed = that_must_survive(cluster), releases(cluster)

    skipping = flows.upgrade(config, to="stable-2.14.10")
    assert skipping["error"] == "InvalidInput"
    assert "skips stable-2.12" in skipping["message"]
    unaccepted = flows.upgrade(config, to="stable-2.12.6")
    assert unaccepted["error"] == "PreflightFailed"
    assert "TrafficSplit/emojivoto/web" in unaccepted["message"]

    dry = walk.upgrade("stable-2.12.6", dry_run=True)
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
    assert releases(cluster) == installed
    assert that_must_survive(cluster) == before


Fail = Callable[[Walk, str], dict[str, Any]]
"""Runs an upgrade that fails one of its gates."""


def restart_fails(walk: Walk, target: str) -> dict[str, Any]:
    """New pods of the application keep the old proxy."""
    undone = walk.upgrade(target, lag=("data plane", walk.config["version"]))
    assert f"Deployment/{APP}/emoji" in undone.get("message", ""), undone
    return undone


def checks_fail(walk: Walk, target: str) -> dict[str, Any]:
    """The new control plane falls ill once every proxy is new."""
    undone = walk.upgrade(target, ill=("verify", 2, "linkerd"))
    assert "is failed: " in undone.get("message", ""), undone
    assert "linkerd-destination" in undone.get("message", ""), undone
    return undone


def release_fails(walk: Walk, target: str) -> dict[str, Any]:
    """The new control plane does not come up in time."""
    ill: dict[str, Any] = {"inline": {"podAnnotations": {READY: "false"}}}
    impatient = {**walk.config, "values": ill, "timeout_seconds": 30}
    undone = walk.flows.upgrade(impatient, to=target, accept=["smi"])
    assert "Helm release linkerd/linkerd-control-plane" in undone.get("message", ""), undone
    return undone


@contextmanager
def held_by_a_run_that_dies(walk: Walk, target: str) -> Iterator[None]:
    """Asserts that a run is refused while another holds the mesh; the other then dies."""
    installed = releases(walk.cluster)
    with RotationClaim(walk.cluster, "linkerd", HOLDER, 3) as elsewhere:
        refused = walk.upgrade(target)
        assert refused["error"] == "MeshBusy", refused
        assert HOLDER in refused["message"]
        assert releases(walk.cluster) == installed
        # A dry run still works.
        assert walk.upgrade(target, dry_run=True)["target"] == target
        # The other run dies: its lease is neither renewed nor released.
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
    source: str, target: str, fail: Fail, walk: Walk
) -> None:
    walk.go_to(source)
    cluster, installed = walk.cluster, walk.installed

    undone = fail(walk, target)

    assert undone["error"] == "UpgradeUndone", undone
    assert f"It is at {source} again" in undone.get("message", ""), undone
    walk.report_rolled_back(source, installed)

    is_claimed = (source, target) == CLAIMED
    with held_by_a_run_that_dies(walk, target) if is_claimed else nullcontext():
        done = walk.upgrade(target)

    assert (done.get("source"), done.get("target")) == (source, target), done
    assert proxies(cluster) == {target}
    walk.arrive(target)
    release = LinkerdVersion.parse(target)
    of_linkerd = ("linkerd-crds", "linkerd-control-plane", "linkerd-viz")
    assert walk.installed == {
        **{name: (name, chart_version(name, release), "deployed") for name in of_linkerd},
        "traefik": installed["traefik"],
    }
    page = walk.flows.report("linkerd-walk-upgrade")
    assert f"upgraded to {target}" in page
    assert "## Verified" in page


def test_at_the_newest_there_is_nothing_to_do(walk: Walk) -> None:
    target = HOPS[-1][1]
    walk.go_to(target)
    assert walk.flows.upgrade(walk.config, to=target)["done"]
    assert walk.flows.upgrade(walk.config, to="edge-25.4.4")["error"] == "InvalidInput"


def test_a_completed_upgrade_is_taken_back(walk: Walk) -> None:
    """A completed but unwanted upgrade goes back to the revisions that Helm has kept."""
    source, target = HOPS[-1]
    walk.go_to(target)
    config = {**walk.config, "version": source}
    assert walk.flows.upgrade(config, go_back=True) == {"done": True}
    walk.report_rolled_back(source, walk.left)
    again = walk.flows.upgrade(config, go_back=True)
    assert again["error"] == "PreflightFailed", again
    assert "Helm keeps no revision of linkerd-control-plane" in again["message"], again
