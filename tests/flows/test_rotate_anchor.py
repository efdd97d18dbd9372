"""Flows `rotate_anchor` and `rotate_issuer` as users run them, on a real Prefect server."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import read_record
from prefect_linkerd.mesh.rotation.trust_bundle import read_trust_bundle
from prefect_linkerd.server.prefect_server import PrefectServer
from sandbox.binaries import Binaries
from tests.support.invariant import Invariant
from tests.support.meshes import PASSPHRASE, add_workloads, store_of
from tests.support.prefect_servers import events, everything_kept
from tests.support.ready_meshes import ReadyMesh

FLOWS = """
import json, sys
from prefect_linkerd.flows.rotate_anchor import rotate_anchor
from prefect_linkerd.flows.rotate_issuer import rotate_issuer
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.rotation.options import NewAnchor, RotationOptions
from prefect_linkerd.tasks.linkerd_mesh import LinkerdMesh

mesh = LinkerdMesh.model_validate_json(sys.argv[1])
options = RotationOptions(restarts={"batch_size": 100}, load_seconds=20, lease_seconds=30)
plan = rotate_anchor(mesh, options=options, dry_run=True)
assert plan.restarts["spread"].restarts == 7, plan
issuer = rotate_issuer(mesh, options)
assert issuer.before.fingerprint != issuer.after.fingerprint
record = rotate_anchor(mesh, options=options)
try:
    rotate_anchor(mesh, options=options, action="abort")
except InvalidInput as error:
    print(error)
print(json.dumps({"goal": record.goal, "phase": record.phase}))
"""


def test_the_flows_rotate_issuer_and_anchor_and_keep_their_secrets(
    ready_mesh: ReadyMesh,
    prefect_server: PrefectServer,
    binaries: Binaries,
) -> None:
    sandbox, config = ready_mesh("edge-26.8.3", name="rotated")
    cluster = sandbox.cluster()
    add_workloads(cluster, 4)
    old = store_of(cluster, config).load()
    content = json.loads(config.model_dump_json())
    content["access"] = {"kubeconfig": str(sandbox.kubeconfig)}
    content["trust_anchor"]["passphrase"] = PASSPHRASE.get_secret_value()
    environment = os.environ | prefect_server.environment
    environment["PATH"] = os.pathsep.join([str(binaries.helm.parent), environment["PATH"]])

    with Invariant(sandbox):
        done = subprocess.run(
            [sys.executable, "-c", FLOWS, json.dumps(content)],
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
            env=environment,
        )
    assert done.returncode == 0, done.stderr[-4000:]

    said = json.loads(done.stdout.splitlines()[-1])
    record = read_record(cluster, "linkerd")
    assert record is not None
    assert said == {"goal": record.goal, "phase": "done"}
    assert read_trust_bundle(Mesh(cluster, config)).anchors == {record.goal}
    new = store_of(cluster, config).load()
    assert old is not None
    assert new is not None
    # A server stores events some time after it has accepted them.
    assert events(prefect_server, "rotated", "linkerd.anchor.rotated")
    kept = everything_kept(prefect_server) + done.stdout + done.stderr
    for text in ("rotated-rotation-plan", "Proven for"):
        assert text in kept
    secrets = [PASSPHRASE.get_secret_value()]
    for pair in (old, new):
        secrets += pair.private_key.get_secret_value().splitlines()[1:-1]
    for secret in secrets:
        assert secret not in kept
