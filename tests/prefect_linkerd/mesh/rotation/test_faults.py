"""A rotation while the API server fails, runs die and pods come and go, all at random."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import RECORD, RotationClaim, read_record
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.options import NewAnchor
from prefect_linkerd.mesh.rotation.run import Rotation
from prefect_linkerd.mesh.rotation.trust_bundle import read_trust_bundle
from tests.support.fault_proxy import FaultProxy
from tests.support.invariant import Invariant
from tests.support.meshes import add_workloads, quiet, store_of
from tests.support.ready_meshes import ReadyMesh
from tests.support.rotations import FAST, await_lease

WORKLOADS = 16
DEATHS = 6
SHARE = 0.03
# A Helm upgrade makes a hundred requests and retries few: this share fails about half the upgrades.
HELMS_SHARE = 0.005


class Died(BaseException):
    """Ends the run on the spot; not an Exception, so nothing handles it."""


class Dying(Cluster):
    """A cluster access that dies after `left` writes and sends no request afterwards."""

    left: int | None = None
    is_dead = False

    def request(self, method: str, path: str, **options: Any) -> Any:
        if self.is_dead:
            raise Died
        answered = super().request(method, path, **options)
        if method != "GET" and self.left is not None and RECORD not in path:
            self.left -= 1
            if self.left < 0:
                self.is_dead = True
                raise Died
        return answered


@pytest.mark.parametrize(
    ("version", "issuer", "seed"),
    [("stable-2.14.10", "self-signed", 2), ("edge-26.8.3", "cert-manager", 5)],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_it_holds_and_comes_to_its_end_whatever_fails(
    version: str,
    issuer: str,
    seed: int,
    ready_mesh: ReadyMesh,
    helm_path: str,
) -> None:
    sandbox, config = ready_mesh(version, issuer)
    clean = sandbox.cluster()
    add_workloads(clean, WORKLOADS)
    before = read_trust_bundle(Mesh(clean, config)).anchors
    rng = random.Random(seed)  # noqa: S311 nothing secret

    with (
        FaultProxy(sandbox.kubeconfig, SHARE, seed) as proxy,
        FaultProxy(sandbox.kubeconfig, HELMS_SHARE, seed) as helms,
        coming_and_going(clean, random.Random(seed)),  # noqa: S311
        Invariant(sandbox) as invariant,
    ):
        failed, died, done = 0, 0, False
        while not done:
            assert failed < 30
            await_lease(clean)
            faulty = Dying(proxy.kubeconfig, patience=5)
            faulty.left = rng.randrange(6) if died < DEATHS else None
            helm = Helm(Cluster(helms.kubeconfig, patience=5), helm_path, grace=5)
            try:
                done = run(faulty, helm, config, f"run {died + failed}")
            except Died:
                died += 1
            except MeshError:
                failed += 1
    assert proxy.faults > 10
    assert helms.requests > 100
    assert died > 2
    assert invariant.samples > 50
    after = read_trust_bundle(Mesh(clean, config)).anchors
    assert len(after) == 1
    assert not after & before
    record = read_record(clean, "linkerd")
    assert record is not None
    assert {record.goal} == after


def run(faulty: Cluster, helm: Helm, config: Any, owner: str) -> bool:
    with RotationClaim(faulty, "linkerd", owner, FAST.lease_seconds) as claim:
        ring = KeyRing(store_of(faulty, config))
        rotation = Rotation(Mesh(faulty, config, helm), ring, claim, FAST)
        if (record := claim.record) is not None and not record.is_open:
            return True
        rotation.begin(NewAnchor(), "rotate")
        for _ in range(12):
            phase = rotation.next_phase()
            if phase == "done":
                rotation.finish()
                return True
            rotation.advance(phase, quiet)
    return False


@contextmanager
def coming_and_going(cluster: Cluster, rng: random.Random) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=come_and_go, args=(cluster, rng, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def come_and_go(cluster: Cluster, rng: random.Random, over: threading.Event) -> None:
    """Deletes pods, scales workloads up and down, and deletes and recreates them."""
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
