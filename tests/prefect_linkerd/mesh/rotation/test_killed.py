"""A rotation killed after every phase and halfway through batches; the next run resumes it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import fingerprints
from prefect_linkerd.mesh.records.rotation import read_record
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.trust_bundle import VALUE, read_trust_bundle
from sandbox.cluster import Sandbox
from tests.support.invariant import Invariant
from tests.support.meshes import PASSPHRASE, add_workloads, store_of
from tests.support.ready_meshes import ReadyMesh
from tests.support.rotations import await_lease

# Where it dies, and the phase in the record at that moment.
SELF_SIGNED = [
    # The new key is stored and the record is written.
    ("PUT prefect-linkerd-rotation 1 prepare", "prepare"),
    # Helm is writing the bundle; then that is complete, by whichever run.
    ("helm", "prepare"),
    ("tell Restarting spread", "spread"),
    # Halfway through a batch; then at the end of the phase.
    ("PATCH namespaces/apps/deployments 3 spread", "spread"),
    ("tell Proven spread", "spread"),
    # The new anchor has signed the issuer; identity has not loaded it.
    ("PATCH secrets/linkerd-identity-issuer 2 spread", "spread"),
    ("PATCH namespaces/apps/deployments 4 switch", "switch"),
    ("tell Proven switch", "switch"),
    # Helm removes the old anchor from the bundle; then halfway through the last batch.
    ("helm", "switch"),
    ("PATCH namespaces/apps/deployments 2 drop", "drop"),
    ("tell Proven drop", "drop"),
    # All keys but one are deleted, and the record does not say done yet.
    ("DELETE secrets/linkerd-identity-issuer-previous 1 drop", "drop"),
]
# At the gentle pace, with one round of restarts.
CERT_MANAGER = [
    # The original lifetime is recorded, and nothing is shortened yet.
    ("PUT prefect-linkerd-rotation 3 prepare", "prepare"),
    ("helm", "prepare"),
    ("PATCH namespaces/apps/deployments 5 spread", "spread"),
    # The old key is stored beside the place that the new one will take.
    ("PATCH secrets/linkerd-trust-anchor-previous 1 spread", "spread"),
    # cert-manager has the new key and has been asked to issue.
    ("PATCH certificates/linkerd-identity-issuer/status 1 spread", "spread"),
    # Helm removes the old anchor from the bundle and restores the lifetime. On a slow machine all
    # proxies have renewed before the next run looks, and nothing is left to `switch`.
    ("helm", "spread or switch"),
    ("tell one drop", "drop"),
]


@pytest.mark.parametrize(
    ("version", "issuer", "places", "pace"),
    [
        ("edge-26.8.3", "self-signed", SELF_SIGNED, ""),
        ("stable-2.11.5", "cert-manager", CERT_MANAGER, ":gentle"),
    ],
    ids=["self-signed", "cert-manager"],
)
def test_a_rotation_killed_anywhere_is_finished_by_the_next_run(
    version: str,
    issuer: str,
    places: list[tuple[str, str]],
    pace: str,
    ready_mesh: ReadyMesh,
    helm_path: str,
    tmp_path: Path,
) -> None:
    sandbox, config = ready_mesh(version, issuer, name="killed")
    cluster = sandbox.cluster()
    add_workloads(cluster, 12)
    before = read_trust_bundle(Mesh(cluster, config)).anchors
    goals: set[str] = set()

    def run(*place: str, action: str = "rotate") -> subprocess.CompletedProcess[str]:
        await_lease(cluster)
        return run_rotation(sandbox, config, helm_path, tmp_path, action + pace, *place)

    release = read_trust_bundle(Mesh(cluster, config)).release
    with Invariant(sandbox):
        for place, phase in places:
            killed = run(place)
            assert killed.returncode == -signal.SIGKILL, f"{place}: {killed.stderr[-3000:]}"
            record = read_record(cluster, "linkerd")
            assert record is not None
            assert record.phase in phase.split(" or "), place
            goals.add(record.goal)
        finished = run()
        assert finished.returncode == 0, finished.stderr[-3000:]
        if pace:
            record = read_record(cluster, "linkerd")
            assert record is not None
            assert "drop" not in record.restarted
            assert not any("/apps/" in name for name in record.restarted.get("switch", ()))
            # Proxies that still trust the old anchor are restarted on request.
            killed = run("PATCH namespaces/apps/deployments 5 drop", action="drop")
            assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
            finished = run(action="drop")
            assert finished.returncode == 0, finished.stderr[-3000:]
            nothing_left = run(action="drop")
            assert "every proxy trusts only the new anchor" in nothing_left.stderr
        for proxy in sandbox.proxies():
            assert fingerprints(proxy.bundle, proxy.name) == goals

    # The new anchor is the same from the first run to the last.
    assert len(goals) == 1
    assert read_trust_bundle(Mesh(cluster, config)).anchors == goals
    assert not goals & before
    ring = KeyRing(store_of(cluster, config))
    kept = ring.current.load()
    assert kept is not None
    assert fingerprints(kept.certificate, "kept") == goals
    assert (ring.next.load(), ring.previous.load()) == (None, None)
    after = read_trust_bundle(Mesh(cluster, config)).release
    assert release is not None
    assert after is not None
    assert after.values == {**(release.values or {}), VALUE: (after.values or {})[VALUE]}


def run_rotation(
    sandbox: Sandbox, config: MeshConfig, helm_path: str, folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Runs a rotation in its own process, which dies at the place in `arguments`, if any."""
    content = json.loads(config.model_dump_json())
    content["trust_anchor"]["passphrase"] = PASSPHRASE.get_secret_value()
    mesh = folder / "mesh.json"
    mesh.write_text(json.dumps(content))
    command = [
        sys.executable,
        "-m",
        "tests.prefect_linkerd.mesh.rotation.run_rotation",
        str(sandbox.kubeconfig),
    ]
    return subprocess.run(
        [*command, str(mesh), helm_path, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
