"""What delays or undoes an upgrade, on one mesh: requests, traffic and the policy."""

from __future__ import annotations

import json
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.records import read_releases
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe.workloads import PROBE
from prefect_linkerd.mesh.records.upgrade import NAME, read_record, write_record
from sandbox.cluster import Sandbox
from tests.flows.faults import READY
from tests.support.flows import ConfigFactory, Flows
from tests.support.loopback import UNTRUSTED, DataPlane, LoopbackNode
from tests.support.meshes import add_workloads
from tests.support.ready_meshes import ReadyMesh
from tests.support.traffic import WatchedTraffic
from tests.support.upgrades import HOPS, installed_alone, proxies, releases

SOURCE, TARGET = HOPS[-1]


@pytest.mark.waits
@pytest.mark.timeout(1500)
def test_an_upgrade_goes_back_for_what_is_found_and_arrives_as_its_policy_says(
    ready_mesh: ReadyMesh, mesh_config: ConfigFactory, flows: Flows, tmp_path: Path
) -> None:
    """The parts share a cluster, as each starts with the mesh unchanged."""
    sandbox, config = installed_alone(
        ready_mesh, mesh_config, name="gates", version=SOURCE, emojivoto={"enabled": False}
    )
    goes_back_as_new_proxies_are_refused(sandbox, config, flows, tmp_path)
    add_workloads(sandbox.cluster(), 3)
    goes_back_and_says_which_workload_fails_and_by_how_much(sandbox, config, flows, tmp_path)
    begins_and_goes_on_as_its_policy_says(sandbox, config, flows)


def goes_back_as_new_proxies_are_refused(
    sandbox: Sandbox, config: dict[str, Any], flows: Flows, folder: Path
) -> None:
    """The upgrade's own requests fail; afterwards nothing of its probe is left."""
    cluster = sandbox.cluster()
    probe = {"replicas": 1, "requests_per_second": 50, "warm_up_seconds": 1}
    with DataPlane(cluster) as plane, LoopbackNode(cluster, folder, plane):
        plane.breaks = {("before", "data-plane")}
        done = flows.upgrade(
            config, to=TARGET, probe=probe, restarts={"batch_size": 100}, loopback=True
        )
        assert done["error"] == "UpgradeUndone", done
        assert "0-before to 1-data-plane: " in done["message"]
        assert UNTRUSTED in done["message"]
        assert proxies(cluster) == {SOURCE}
        assert not list(cluster.list("v1", "Pod", "linkerd-probe", labels=PROBE.run_label))


def goes_back_and_says_which_workload_fails_and_by_how_much(
    sandbox: Sandbox, config: dict[str, Any], flows: Flows, folder: Path
) -> None:
    """A workload answers with errors once it is restarted."""
    cluster = sandbox.cluster()
    installed = {**releases(cluster), "linkerd-crds": None}
    with WatchedTraffic(sandbox.kubeconfig, "apps", {"app-0001": 0.2}) as traffic:
        kubeconfig = folder / "watched"
        kubeconfig.write_text(json.dumps(traffic.kubeconfig))
        watched = {**config, "access": {"kubeconfig": str(kubeconfig)}}
        done = flows(
            "upgrade", watched, to=TARGET, restarts={"batch_size": 1, "traffic_seconds": 1}
        )

    undone = json.loads(done.stdout.splitlines()[-1])
    assert undone["error"] == "UpgradeUndone", done.stderr[-4000:]
    said = r"Deployment/apps/app-0001: (80|79)(\.\d+)?% of \d+ requests succeeded since the restart"
    assert re.search(said, undone["message"])
    # The batch before it succeeded, and the next was not started.
    assert re.search(r"batch 1: 100% of \d+ requests succeeded before .*100% of", done.stderr)
    assert "batch 3" not in done.stderr.partition("rolls back")[0]
    # CRDs are not rolled back.
    assert {**releases(cluster), "linkerd-crds": None} == installed
    assert proxies(cluster) == {SOURCE}
    assert cluster.get("v1", "ConfigMap", NAME, "linkerd") is None


def shut_window(now: datetime) -> dict[str, Any]:
    """A window that opens in twelve hours."""
    later = now + timedelta(hours=12)
    return {"cron": f"{later.minute} {later.hour} * * *", "duration_minutes": 30}


def begins_and_goes_on_as_its_policy_says(
    sandbox: Sandbox, config: dict[str, Any], flows: Flows
) -> None:
    cluster = sandbox.cluster()
    mesh = MeshConfig.model_validate(config)
    installed = read_releases(cluster)

    def upgrade(policy: dict[str, Any], **options: Any) -> dict[str, Any]:
        return flows.upgrade({**config, "upgrade": policy}, to=TARGET, on_server=True, **options)

    # A run without a deployment cannot be rescheduled.
    shut = upgrade({"window": shut_window(datetime.now(UTC))})
    assert shut["error"] == "InvalidInput"
    assert "found that it opens at" in shut["message"]
    # Nobody answers in time.
    unanswered = upgrade({"approval": True, "approval_hours": 0.0005})
    assert unanswered["error"] == "NotApproved"
    assert "found no answer" in unanswered["message"]
    # A user has to accept another channel's releases.
    foreign = upgrade({"channel": "stable"})
    assert foreign["error"] == "PreflightFailed"
    assert "the mesh's upgrade policy wants stable" in foreign["message"]
    assert read_releases(cluster) == installed

    # Killed while the new control plane soaks: the soak still counts from its start.
    soaking = {**config, "upgrade": {"soak_minutes": 30, "settle_seconds": 3}}
    killed = flows("upgrade", soaking, to=TARGET, kill=("soak", 1), on_server=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    record = read_record(Mesh(cluster, mesh))
    assert record is not None
    assert record.control_plane_since is not None
    assert proxies(cluster) == {SOURCE, TARGET}

    # An unready control plane ends the soak, and the upgrade is undone.
    destination = "linkerd.io/control-plane-component=destination"
    pods = cluster.list("v1", "Pod", "linkerd", labels=destination)
    pod = next(p for p in pods if not p["metadata"].get("deletionTimestamp"))["metadata"]["name"]
    cluster.merge("v1", "Pod", pod, "linkerd", {"metadata": {"annotations": {READY: "false"}}})
    undone = flows.upgrade(soaking, to=TARGET, on_server=True)
    assert undone["error"] == "UpgradeUndone"
    assert f"Pod/linkerd/{pod}" in undone["message"]
    assert proxies(cluster) == {SOURCE}

    # Healthy throughout: the data plane follows after the soak, which includes the time killed.
    soaking["upgrade"]["soak_minutes"] = 1
    killed = flows("upgrade", soaking, to=TARGET, kill=("soak", 1), on_server=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    record = read_record(Mesh(cluster, mesh))
    assert record is not None
    assert record.control_plane_since is not None
    began = record.control_plane_since - timedelta(seconds=50)
    write_record(Mesh(cluster, mesh), record.model_copy(update={"control_plane_since": began}))
    done = flows("upgrade", soaking, to=TARGET, on_server=True)
    assert json.loads(done.stdout)["target"] == TARGET
    assert f"soaks until {began + timedelta(minutes=1)}" in done.stderr
    assert proxies(cluster) == {TARGET}
    assert cluster.get("v1", "ConfigMap", NAME, "linkerd") is None
