"""A rotation while the API server fails, the run dies and pods come and go, all at random."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.cluster import Cluster
from mesh.errors import MeshError
from mesh.helm import Helm
from mesh.rotation.key_ring import KeyRing
from mesh.rotation.options import NewAnchor
from mesh.rotation.record import RotationClaim, read_record
from mesh.rotation.run import Rotation
from mesh.rotation.trust_bundle import read_trust_bundle
from sandbox.cluster import Sandbox
from tests.rotation.fault_proxy import FaultProxy
from tests.rotation.invariant import Invariant
from tests.rotation.meshes import (
    FAST,
    add_workloads,
    chart_of,
    configuration,
    install,
    step,
    store_of,
)

WORKLOADS = 16
DEATHS = 6


class Died(BaseException):
    """The run ends here, wherever it is; nothing of it is handled."""


class Dying(Cluster):
    """A cluster access whose run dies after some number of writes."""

    left: int | None = None

    def request(self, method: str, path: str, **options: Any) -> Any:
        answered = super().request(method, path, **options)
        if method != "GET" and self.left is not None and "prefect-linkerd-rotation" not in path:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Died
        return answered


@pytest.mark.parametrize("seed", [2])
def test_it_holds_and_comes_to_its_end_whatever_fails(
    seed: int,
    fresh_sandbox: Callable[..., Sandbox],
    shared_dir: Path,
    helm_path: str,
    tmp_path: Path,
) -> None:
    sandbox = fresh_sandbox()
    clean = sandbox.cluster()
    config = configuration("stable-2.14.10", shared_dir, tmp_path)
    install(clean, config, helm_path)
    add_workloads(clean, WORKLOADS)
    before = read_trust_bundle(clean, config).anchors
    rng = random.Random(seed)  # noqa: S311 nothing secret
    over = threading.Event()
    churn = threading.Thread(target=come_and_go, args=(clean, random.Random(seed), over))  # noqa: S311

    with FaultProxy(sandbox.kubeconfig, 0.03, seed) as proxy, Invariant(sandbox) as invariant:
        churn.start()
        failed, died, done = 0, 0, False
        while not done:
            assert failed < 30
            faulty = Dying(proxy.kubeconfig, patience=5)
            faulty.left = rng.randrange(2, 25) if died < DEATHS else None
            try:
                # Helm has its own way through faults, and its own tests.
                done = run(faulty, clean, config, helm_path)
            except Died:
                died += 1
            except MeshError:
                failed += 1
        over.set()
        churn.join()
        faults = proxy.faults
    assert faults > 10
    assert died > 2
    assert invariant.samples > 50
    after = read_trust_bundle(clean, config).anchors
    assert len(after) == 1
    assert not after & before
    record = read_record(clean, "linkerd")
    assert record is not None
    assert {record.goal} == after


def run(faulty: Cluster, clean: Cluster, config: Any, helm_path: str) -> bool:
    with RotationClaim(faulty, "linkerd", "run", FAST.lease_seconds) as claim:
        ring = KeyRing(store_of(clean, config))
        helm = Helm(clean, helm_path, grace=5)
        rotation = Rotation(faulty, config, helm, chart_of(config), ring, claim, FAST)
        record = rotation.begin(NewAnchor(), "rotate")
        if record.phase == "done":
            return True
        for _ in range(12):
            phase = rotation.next_phase()
            step(rotation, phase, "rotate")
            if phase == "done":
                return True
    return False


def come_and_go(cluster: Cluster, rng: random.Random, over: threading.Event) -> None:
    """Pods are evicted, scaled up and down, and workloads deleted and made."""
    while not over.wait(1.0):
        name = f"app-{rng.randrange(WORKLOADS):04}"
        what = rng.randrange(3)
        if what == 0:
            labels = f"app={name}"
            for pod in list(cluster.list("v1", "Pod", "apps", labels=labels)):
                cluster.delete("v1", "Pod", pod["metadata"]["name"], "apps")
        elif what == 1:
            scale = {"spec": {"replicas": rng.randrange(3)}}
            cluster.merge("apps/v1", "Deployment", name, "apps", scale)
        else:
            obj = cluster.get("apps/v1", "Deployment", name, "apps")
            assert obj is not None
            cluster.delete("apps/v1", "Deployment", name, "apps")
            time.sleep(0.5)
            kept = {k: v for k, v in obj["metadata"].items() if k in ("name", "namespace")}
            cluster.create({**obj, "metadata": kept, "status": {}})
