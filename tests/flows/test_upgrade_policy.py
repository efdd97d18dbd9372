"""What a mesh's upgrade policy says of when an upgrade begins, and how it goes on."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.records import read_releases
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.upgrade import NAME, read_record, write_record
from tests.flows.faults import READY
from tests.support.flows import ConfigFactory, Flows
from tests.support.meshes import add_workloads
from tests.support.ready_meshes import ReadyMesh
from tests.support.upgrades import installed_alone, proxies

SOURCE, TARGET = "edge-25.4.4", "edge-26.8.3"


def shut_window(now: datetime) -> dict[str, Any]:
    """A window that opens in twelve hours."""
    later = now + timedelta(hours=12)
    return {"cron": f"{later.minute} {later.hour} * * *", "duration_minutes": 30}


def test_a_policy_says_when_an_upgrade_begins_and_how_it_goes_on(
    ready_mesh: ReadyMesh,
    mesh_config: ConfigFactory,
    flows: Flows,
) -> None:
    sandbox, config = installed_alone(
        ready_mesh,
        mesh_config,
        name="policy",
        version=SOURCE,
        emojivoto={"enabled": False},
    )
    cluster = sandbox.cluster()
    mesh = MeshConfig.model_validate(config)
    add_workloads(cluster, 2)
    installed = read_releases(cluster)

    def upgrade(policy: dict[str, Any], **options: Any) -> dict[str, Any]:
        return flows.upgrade({**config, "upgrade": policy}, to=TARGET, on_server=True, **options)

    # A run without a deployment cannot be put off.
    shut = upgrade({"window": shut_window(datetime.now(UTC))})
    assert shut["error"] == "InvalidInput"
    assert "found that it opens at" in shut["message"]
    # Nobody answers in time.
    unanswered = upgrade({"approval": True, "approval_hours": 0.0005})
    assert unanswered["error"] == "NotApproved"
    assert "found no answer" in unanswered["message"]
    # Another channel's releases are for a person to accept.
    foreign = upgrade({"channel": "stable"})
    assert foreign["error"] == "PreflightFailed"
    assert "the mesh's upgrade policy wants stable" in foreign["message"]
    assert read_releases(cluster) == installed

    # Killed while the new control plane soaks: the soak goes on from when it began.
    soaking = {**config, "upgrade": {"soak_minutes": 30, "settle_seconds": 3}}
    killed = flows("upgrade", soaking, to=TARGET, kill=("soak", 1), on_server=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    record = read_record(Mesh(cluster, mesh))
    assert record is not None
    assert record.control_plane_since is not None
    assert proxies(cluster) == {SOURCE, TARGET}

    # An ill control plane ends the soak: the upgrade goes back.
    destination = "linkerd.io/control-plane-component=destination"
    pods = cluster.list("v1", "Pod", "linkerd", labels=destination)
    pod = next(p for p in pods if not p["metadata"].get("deletionTimestamp"))["metadata"]["name"]
    cluster.merge("v1", "Pod", pod, "linkerd", {"metadata": {"annotations": {READY: "false"}}})
    undone = flows.upgrade(soaking, to=TARGET, on_server=True)
    assert undone["error"] == "UpgradeUndone"
    assert f"Pod/linkerd/{pod}" in undone["message"]
    assert proxies(cluster) == {SOURCE}

    # Well all the time: the data plane follows when the soak is over, counted over the kill.
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
