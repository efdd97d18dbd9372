"""`smoke_test` on a whole mesh: with pods that do not run, with running pods, and killed midway."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.smoke.options import SMOKE_TESTS, SmokeOptions, SmokeTest
from prefect_linkerd.mesh.smoke.report import (
    SmokeReport,
    SmokeResult,
    require_smoke,
    smoke_markdown,
)
from prefect_linkerd.mesh.smoke.run import SMOKE
from prefect_linkerd.mesh.smoke.smoke_tests import run_smoke_test
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from sandbox.cluster import Sandbox
from tests.support import meshes
from tests.support.charts import crds
from tests.support.cluster_state import resource_versions
from tests.support.flows import Flows
from tests.support.loopback import DataPlane, LoopbackNode
from tests.support.ready_meshes import ReadyMeshes
from tests.support.waiting import eventually, eventually_equal

# All tests share one cluster with a mesh.
# The rehearsal charts lack the kinds that split traffic.
pytestmark = [
    pytest.mark.real_charts,
    pytest.mark.waits,
    pytest.mark.xdist_group("smoke"),
]

VERSION = "edge-26.8.3"


class Stage:
    """One mesh that every test of this module uses and leaves unchanged."""

    def __init__(self, sandbox: Sandbox, config: dict[str, Any], flows: Flows):
        self.sandbox, self.config, self._flows = sandbox, config, flows
        self.cluster = sandbox.cluster()

    def smoke_test(
        self, options: dict[str, Any], kill_after: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        # Tests do not look at a killed run on the server, so it needs none.
        return self._flows(
            "smoke_test",
            self.config,
            options=options,
            kill_after=kill_after,
            on_server=kill_after is None,
        )

    def keep(self, test: SmokeTest, version: str = VERSION, **options: Any) -> SmokeResult:
        mesh = LinkerdMesh.model_validate(self.config | {"version": version})
        chosen = {"settle_seconds": 1, "requests": 400, **options}
        return run_smoke_test(test, Mesh(self.cluster, mesh), SmokeOptions.model_validate(chosen))


@pytest.fixture(scope="module")
def stage(
    ready_meshes: ReadyMeshes,
    flows: Flows,
    charts_dir: Path,
    shared_dir: Path,
    helm_path: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    config = {
        "name": "smoke",
        "version": VERSION,
        "charts": {"mirror": str(charts_dir)},
        "profile": "demo",
        "emojivoto": {"manifest": str(shared_dir / "manifests/emojivoto.yml")},
        "viz": {"enabled": False},
        # The heartbeat's CronJob might start while a test compares objects.
        "values": {"inline": {"disableHeartBeat": True}},
    }

    def install(sandbox: Sandbox, _folder: Path) -> None:
        cluster = sandbox.cluster()
        meshes.install(cluster, MeshConfig.model_validate(config), helm_path)
        # Linkerd 2.11's TrafficSplit, so that this kind is tested too.
        for crd in crds(helm_path, charts_dir / "stable/linkerd2-2.11.5.tgz"):
            if crd["metadata"]["name"] == "trafficsplits.split.smi-spec.io":
                cluster.apply(crd)
        eventually(lambda: cluster.serves("split.smi-spec.io/v1alpha2", "TrafficSplit"), every=0.1)

    with ready_meshes.copy("smoke", tmp_path_factory.mktemp("stage"), install) as sandbox:
        access = {"kubeconfig": str(sandbox.kubeconfig)}
        yield Stage(sandbox, {**config, "access": access}, flows)


@pytest.fixture
def unchanged(stage: Stage) -> Iterator[Cluster]:
    """Asserts that the test leaves every object of the cluster at its resourceVersion."""
    before = resource_versions(stage.cluster)
    yield stage.cluster
    # Controllers may need a moment to clean up after our objects.
    eventually_equal(lambda: resource_versions(stage.cluster), before)


@pytest.fixture
def plane(stage: Stage, tmp_path: Path) -> Iterator[DataPlane]:
    """A node whose pods run as processes, and a stand-in for the data plane between them."""
    with DataPlane(stage.cluster) as plane, LoopbackNode(stage.cluster, tmp_path, plane):
        yield plane


@pytest.mark.usefixtures("unchanged")
def test_where_pods_do_not_run_objects_are_tried_and_traffic_is_skipped(stage: Stage) -> None:
    done = stage.smoke_test({})
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert outcomes == {test: ["skipped", "pods do not run here"] for test in SMOKE_TESTS}
    assert "Skipped(" in done.stderr
    # Every step that needs no traffic was done, with the real CRDs and the real injector.
    for said in ("pods are up and meshed", "split: stable 0, canary 100: passed", "split removed"):
        assert said in done.stderr


@pytest.mark.usefixtures("unchanged")
def test_what_killed_runs_left_is_gone_after_the_next(stage: Stage) -> None:
    killings: list[tuple[str, SmokeTest]] = [
        ("HTTPRoute", "fault-injection"),
        ("Deployment", "canary"),
        ("IngressRoute", "ingress"),
    ]
    for kind, test in killings:
        killed = stage.smoke_test({"tests": [test]}, kind)
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    labels = "smoke.prefect-linkerd/run"
    left = list(stage.cluster.list("batch/v1", "Job", "emojivoto", labels=labels))
    assert left, "a killed run leaves its own objects for the next to find"

    done = stage.smoke_test({"tests": ["load-balancing"]})
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_outlives_the_api_server(stage: Stage) -> None:
    before = resource_versions(stage.cluster)
    # As soon as a fuse's Job exists, a test is in the middle of its work.
    with ThreadPoolExecutor() as pool:
        running = pool.submit(stage.smoke_test, {"tests": ["traffic-split"]})
        while not list(stage.cluster.list("batch/v1", "Job", "emojivoto", labels=SMOKE.fuse_label)):
            assert not running.done()
            time.sleep(0.1)
        stage.sandbox.stop_apiserver()
        # Longer than a step retries requests, so that it fails and is run again.
        time.sleep(25)
        stage.sandbox.start_apiserver()
        done = running.result()
    assert done.returncode == 0, done.stderr[-3000:]
    assert "traffic-split" in json.loads(done.stdout.splitlines()[-1])
    # The controller that deletes our Services' endpoints has lost the API server too.
    eventually_equal(lambda: set(resource_versions(stage.cluster)), set(before))


@pytest.mark.usefixtures("unchanged", "plane")
def test_where_pods_run_every_test_passes_and_is_measured(stage: Stage) -> None:
    results = tuple(stage.keep(test) for test in SMOKE_TESTS)
    report = require_smoke(SmokeReport("smoke", VERSION, results))
    assert [result.outcome for result in results] == ["passed"] * len(SMOKE_TESTS), report
    by_test = {result.test: result for result in results}

    measured = {test: [m.name for m in result.measurements] for test, result in by_test.items()}
    assert measured == {
        "load-balancing": ["all replicas"],
        "traffic-split": [*(f"canary {w}" for w in (5, 25, 50, 100)), "without the split"],
        "canary": [*(f"canary {w}" for w in (5, 25, 50, 100)), "broken 5", "taken back"],
        "fault-injection": ["faults 20", "without faults"],
        "ingress": ["through Traefik", "emojivoto through Traefik"],
    }
    faults = by_test["fault-injection"].measurements[0].traffic
    assert faults.failed("faulty") == faults.errors["500"] == faults.answered("faulty") > 0
    page = smoke_markdown(report)
    assert "| canary 50 | 400 | 100.00% |" in page
    assert "a failing canary is taken back | passed | " in page


# A test, what breaks the mesh, and what the report says.
BROKEN: list[tuple[SmokeTest, Callable[[DataPlane], None], str]] = [
    ("load-balancing", lambda p: setattr(p, "sticks", True), "answered by one replica only"),
    ("traffic-split", lambda p: setattr(p, "ignores_splits", True), "canary answered 0 of 400"),
    ("canary", lambda p: setattr(p, "ignores_splits", True), "canary answered none of 400"),
    ("canary", lambda p: setattr(p, "refuses_routes", True), "NoMatchingParent"),
    ("fault-injection", lambda p: setattr(p, "ignores_splits", True), "faulty answered 0 of 400"),
    ("ingress", lambda p: setattr(p, "ignores_override", True), "named-by-route answered 400"),
    ("load-balancing", lambda p: setattr(p.node, "crash", "No module named x"), "No module named"),
]


@pytest.mark.usefixtures("unchanged")
def test_a_mesh_that_fails_a_test_is_found_out(stage: Stage, plane: DataPlane) -> None:
    for test, wrong, said in BROKEN:
        wrong(plane)
        result = stage.keep(test)
        plane.repair()
        assert result.outcome == "failed", test
        assert said in result.reason
        assert result.remedy


@pytest.mark.usefixtures("unchanged", "plane")
@pytest.mark.parametrize(
    ("version", "kind"), [("stable-2.11.5", "TrafficSplit"), ("stable-2.12.6", "ServiceProfile")]
)
def test_older_kinds_lead_traffic_too(stage: Stage, version: str, kind: str) -> None:
    result = stage.keep("traffic-split", version, weights=[25, 100])
    assert result.outcome == "passed", result.reason
    assert any(name.startswith(f"{kind}/emojivoto/") for name in result.objects)


@pytest.mark.usefixtures("unchanged")
def test_the_flow_fails_by_what_is_broken_and_says_so(stage: Stage, plane: DataPlane) -> None:
    plane.ignores_override = True
    options = {"tests": ["load-balancing", "ingress"], "settle_seconds": 1, "requests": 200}
    done = stage.smoke_test(options)
    assert done.returncode == 1
    assert "SmokeTestFailed: mesh smoke: expected every smoke test to pass" in done.stderr
    assert "found ingress: named-by-header answered 0 of 200" in done.stderr
    assert "linkerd.io/inject: ingress" in done.stderr
    # The other test still ran to its end.
    assert "spread over replicas: passed" in done.stderr
