"""Rotations as a worker runs them: on a mesh from a block, with approvals, on a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import MeshConfig, TrustAnchorConfig
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, KeyStore
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import KeyPair, create_trust_anchor, fingerprints
from prefect_linkerd.mesh.records.rotation import RECORD, RotationRecord, read_record
from prefect_linkerd.mesh.restarts import read_data_plane
from prefect_linkerd.mesh.rotation.trust_bundle import read_trust_bundle
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
from prefect_linkerd.tasks.trust_anchor import key_store
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from tests.support.deployed_runs import Executed, Executor
from tests.support.ended import end_anchor, everything_verifies
from tests.support.invariant import Invariant
from tests.support.meshes import add_workloads, configuration, install, store_of
from tests.support.prefect_servers import Server, everything_kept, on_server
from tests.support.ready_meshes import ReadyMesh, ReadyMeshes
from tests.support.repository import ROOT
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("deployments")

OPTIONS = {"restarts": {"batch_size": 100}, "load_seconds": 20, "lease_seconds": 20}
WORKLOADS = 5

# Rotates the same mesh without a deployment while a deployment's run holds it.
SECOND = """
from prefect_linkerd.flows.rotate_anchor import rotate_anchor
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh
print(rotate_anchor(LinkerdMesh.load("south")).goal)
"""


@dataclass
class Named:
    """An installed mesh that is saved as a block, and its runs."""

    server: Server
    executor: Executor
    sandbox: Sandbox
    mesh: LinkerdMesh
    helm: Path
    folder: Path
    started: list[Path] = field(default_factory=list[Path])

    @property
    def cluster(self) -> Cluster:
        return self.sandbox.cluster()

    @property
    def store(self) -> KeyStore:
        return key_store(Mesh(self.cluster, self.mesh))

    def anchors(self) -> frozenset[str]:
        return read_trust_bundle(Mesh(self.cluster, self.mesh)).anchors

    def record(self) -> RotationRecord:
        record = read_record(self.cluster, "linkerd")
        assert record is not None
        return record

    def issuer(self) -> str:
        """The resourceVersion of the issuer's Secret."""
        secret = self.cluster.get("v1", "Secret", ISSUER_SECRET, "linkerd")
        assert secret is not None
        return str(secret["metadata"]["resourceVersion"])

    def log(self) -> Path:
        """The file for the next process's output."""
        self.started.append(self.folder / f"{len(self.started)}.log")
        return self.started[-1]

    def process(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a process with this server and Helm; its output goes to a file."""
        with self.log().open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=os.environ
                | self.server.running.environment
                | {"PATH": os.pathsep.join([str(self.helm.parent), os.environ["PATH"]])},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start(self, deployment: str, **parameters: Any) -> Run:
        """Starts a run of a deployment, executed as a worker would."""
        deployment_id = self.server.deployments()[deployment]["id"]
        mesh = {"$ref": {"block_document_slug": f"linkerd-mesh/{self.mesh.name}"}}
        made = self.server.ask(
            f"deployments/{deployment_id}/create_flow_run",
            parameters={"mesh": mesh, **parameters},
        )
        return Run(self, made, self.executor.start(made["id"], self.log()))

    def said(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in self.started)


@dataclass
class Run:
    named: Named
    made: dict[str, Any]
    process: Executed

    @property
    def state(self) -> str:
        return str(self.named.server.get(f"flow_runs/{self.made['id']}")["state"]["type"])

    def await_pause(self) -> None:
        eventually(lambda: self.state in ("PAUSED", "FAILED", "CRASHED", "COMPLETED"), 300)
        assert self.state == "PAUSED", self.named.said()[-3000:]

    def resume(self) -> None:
        answer = self.named.server.ask(f"flow_runs/{self.made['id']}/resume")
        assert answer["status"] == "ACCEPT", answer

    def await_end(self) -> None:
        assert self.process.wait(timeout=600) == 0, self.named.said()[-3000:]
        assert self.state == "COMPLETED", self.named.said()[-3000:]
        # The mesh stays a reference: the run stores nothing of it.
        kept = self.named.server.get(f"flow_runs/{self.made['id']}")["parameters"]
        assert kept == self.made["parameters"]


@contextmanager
def named(
    name: str,
    config: MeshConfig,
    sandbox: Sandbox,
    server: Server,
    executor: Executor,
    binaries: Binaries,
    folder: Path,
) -> Iterator[Named]:
    """An installed mesh, with workloads, once it has been saved as a block."""
    with on_server(server.api):
        access = {"kubeconfig": str(sandbox.kubeconfig)}
        mesh = LinkerdMesh.model_validate(config.model_dump() | {"name": name, "access": access})
        mesh.save(name)
        add_workloads(sandbox.cluster(), WORKLOADS)
        yield Named(server, executor, sandbox, mesh, binaries.helm, folder)
        LinkerdMesh.delete(name)


@pytest.fixture(scope="module")
def south(
    server: Server,
    executor: Executor,
    binaries: Binaries,
    ready_meshes: ReadyMeshes,
    shared_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Named]:
    """Its anchor's key is in a Prefect Secret block, and its proxies renew every half minute."""
    folder = tmp_path_factory.mktemp("south")
    short = {"inline": {"identity": {"issuer": {"issuanceLifetime": "20s"}}}}

    def configured(place: Path) -> MeshConfig:
        return configuration("edge-26.8.3", shared_dir, place, values=short)

    def install_it(sandbox: Sandbox, place: Path) -> None:
        install(sandbox.cluster(), configured(place), str(binaries.helm))

    with ready_meshes.copy("short certificates", folder, install_it) as sandbox:
        config = configured(folder)
        pair = store_of(sandbox.cluster(), config).load()
        assert pair is not None
        config.trust_anchor = TrustAnchorConfig(custody="offline")
        with named("south", config, sandbox, server, executor, binaries, folder) as found:
            found.store.store_once(pair)
            yield found


def fingerprint(pair: KeyPair) -> str:
    return next(iter(fingerprints(pair.certificate, "anchor")))


@pytest.mark.waits
def test_a_provided_anchor_waits_for_approvals_and_for_renewal_and_its_key_is_nowhere(
    south: Named,
) -> None:
    old = south.store.load()
    new = create_trust_anchor("cluster.local", timedelta(days=30), datetime.now(UTC))
    Secret(value=SecretStr(new.private_key.get_secret_value())).save("south-new-key")
    assert old is not None
    before, issuer = south.anchors(), south.issuer()

    with Invariant(south.sandbox):
        run = south.start(
            "rotate_anchor",
            new_anchor={"certificate": new.certificate, "private_key_block": "south-new-key"},
            options={**OPTIONS, "approvals": ["bundle", "switch"], "renewal": "wait"},
        )
        run.await_pause()
        assert (south.anchors(), south.issuer()) == (before, issuer)
        second = south.process("-c", SECOND)
        eventually(lambda: second_is_queued(south), 300)
        holder = south.cluster.get("v1", "ConfigMap", RECORD, "linkerd")["data"]["owner"]

        run.resume()
        eventually(lambda: "Proven" in str(south.record().story), 300)
        run.await_pause()
        assert south.anchors() == before | {fingerprint(new)}
        assert south.issuer() == issuer
        # The first run still holds the mesh, and the second waits.
        assert holder == south.cluster.get("v1", "ConfigMap", RECORD, "linkerd")["data"]["owner"]
        assert second.poll() is None
        pods = {pod.uid for pod in read_data_plane(south.cluster, "linkerd").pods}

        run.resume()
        eventually(lambda: "Identity has signed" in str(south.record().story), 300)
        assert south.issuer() != issuer
        # Proxies renew their certificates without a restart.
        assert {pod.uid for pod in read_data_plane(south.cluster, "linkerd").pods} == pods
        run.await_end()
        assert second.wait(timeout=300) == 0, south.said()[-3000:]

    record = south.record()
    assert (record.phase, record.goal) == ("done", fingerprint(new))
    assert south.anchors() == {record.goal}
    assert set(record.restarted) == {"spread", "drop"}
    # The second run found it done and started nothing.
    assert south.started[-1].read_text().splitlines()[-1] == record.goal
    assert "Another run has completed the rotation meanwhile" in south.said()
    assert sum(chapter.phase == "prepare" for chapter in record.story) == 1
    assert fingerprint(south.store.load() or old) == record.goal

    kept = everything_kept(south.server.running) + south.said()
    assert "Trust anchor of mesh south" in kept
    for pair in (old, new):
        for line in pair.private_key.get_secret_value().splitlines()[1:-1]:
            assert line not in kept


def second_is_queued(south: Named) -> bool:
    """Whether the second run has made its plan while the first has the only slot."""
    [limit] = [
        limit
        for limit in south.server.ask("v2/concurrency_limits/filter")
        if limit["name"] == "linkerd-rotation-south"
    ]
    assert (limit["limit"], limit["active_slots"]) == (1, 1)
    runs = south.server.ask(
        "flow_runs/filter",
        flow_runs={
            "state": {"type": {"any_": ["RUNNING"]}},
            "deployment_id": {"is_null_": True},
        },
        task_runs={"state": {"type": {"any_": ["COMPLETED"]}}, "name": {"like_": "plan"}},
    )
    return len(runs) == 1


def test_a_new_issuer_waits_for_approval_and_for_nothing_else(south: Named) -> None:
    issuer = south.issuer()
    pods = {pod.uid for pod in read_data_plane(south.cluster, "linkerd").pods}
    with Invariant(south.sandbox):
        run = south.start("rotate_issuer", options={**OPTIONS, "approvals": ["switch"]})
        run.await_pause()
        assert south.issuer() == issuer
        run.resume()
        run.await_end()
    assert south.issuer() != issuer
    assert {pod.uid for pod in read_data_plane(south.cluster, "linkerd").pods} == pods


@pytest.mark.parametrize(
    ("version", "issuer"), [("stable-2.11.5", "self-signed"), ("edge-26.8.3", "cert-manager")]
)
def test_a_mesh_whose_anchor_has_ended_is_recovered(
    version: str,
    issuer: str,
    ready_mesh: ReadyMesh,
    server: Server,
    executor: Executor,
    binaries: Binaries,
    tmp_path: Path,
) -> None:
    sandbox, config = ready_mesh(version, issuer)
    with named("ended", config, sandbox, server, executor, binaries, tmp_path) as lost:
        ended = end_anchor(lost.sandbox, lost.mesh, str(lost.helm), lost.store)
        accepted = {**OPTIONS, "accept_downtime": True}
        lost.start("rotate_anchor", action="recover", options=accepted).await_end()
        everything_verifies(lost.sandbox)
        assert lost.anchors() == {lost.record().goal}
        assert fingerprint(ended) not in lost.anchors()
        assert len(lost.record().restarted["spread"]) == WORKLOADS + 3
