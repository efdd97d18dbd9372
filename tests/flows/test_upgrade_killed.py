"""The chart split, killed at every step there and back; each time the next run resumes it."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest

from prefect_linkerd.mesh.helm.records import read_releases
from prefect_linkerd.mesh.records.upgrade import NAME as RECORD
from tests.support.flows import ConfigFactory, Flows
from tests.support.ready_meshes import ReadyMesh
from tests.support.upgrades import (
    HOPS,
    are_at,
    give_application,
    installed_alone,
    proxies,
    releases,
    that_must_survive,
)

SOURCE, TARGET = HOPS[0]

# A step, and the number of the write to the API server after which the run is killed.
THERE = [
    ("record", 1),
    ("chart split", 1),  # the first revision of linkerd-crds is there, and owns nothing
    ("linkerd-crds", 1),
]
BACK = [
    ("way back", 2),  # some objects are linkerd2's again
    ("way back", 12),
]
AND_THERE = [
    ("chart split", 4),  # in the middle of the CRDs
    ("chart split", 20),  # in the middle of the control plane's objects
    ("linkerd-control-plane", 1),
    ("data plane", 1),
    ("verify", 0),
    ("end of the split", 1),
    ("end of the split", 3),  # the record of linkerd2 is gone, and the upgrade's is not
]


@pytest.mark.waits
@pytest.mark.timeout(1500)
def test_a_split_killed_anywhere_is_finished_or_undone_by_the_next_run(
    ready_mesh: ReadyMesh,
    mesh_config: ConfigFactory,
    flows: Flows,
) -> None:
    sandbox, config = installed_alone(
        ready_mesh,
        mesh_config,
        name="killed-split",
        version=SOURCE,
        # How long the next run waits for a Helm process whose run was killed.
        timeout_seconds=100,
    )
    cluster = sandbox.cluster()
    before = give_application(cluster, config)

    def run(**options: Any) -> subprocess.CompletedProcess[str]:
        done = flows("upgrade", config, to=TARGET, accept=["smi"], **options)
        # In every case, no CRD, custom resource or workload is lost or recreated, and identity has
        # the same issuer and trust bundle.
        assert before.items() <= that_must_survive(cluster).items()
        return done

    def killed(step: str, write: int, **parameters: Any) -> None:
        done = run(kill=(step, write), **parameters)
        assert done.returncode == -signal.SIGKILL, f"{step} {write}: {done.stderr[-3000:]}"

    def is_undone(done: subprocess.CompletedProcess[str]) -> None:
        answer = json.loads(done.stdout)
        assert (answer["error"], "was requested" in answer["message"]) == ("UpgradeUndone", True)
        assert proxies(cluster) == {SOURCE}
        assert [release.name for release in read_releases(cluster)] == ["linkerd2"]
        assert cluster.get("v1", "ConfigMap", RECORD, "linkerd") is None

    for step, write in THERE:
        killed(step, write)
    for step, write in BACK:
        killed(step, write, go_back=True)
    is_undone(run())

    for step, write in AND_THERE:
        killed(step, write)
    assert "linkerd2" not in releases(cluster)
    is_undone(run(go_back=True))

    killed("end", 1)
    last = run()
    assert json.loads(last.stdout)["done"], last.stderr[-3000:]
    assert proxies(cluster) == {TARGET}
    assert are_at(cluster, TARGET)
    assert cluster.get("v1", "ConfigMap", RECORD, "linkerd") is None
