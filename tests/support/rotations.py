"""Meshes rotated without Prefect."""

from __future__ import annotations

import time
from datetime import datetime

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.identity.trust_anchor import provided_pair
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe.run import Probe
from prefect_linkerd.mesh.records.rotation import RECORD, RotationClaim
from prefect_linkerd.mesh.restarts import RestartPolicy
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.options import Action, NewAnchor, RotationOptions
from prefect_linkerd.mesh.rotation.plan import RotationPlan, inspect_rotation
from prefect_linkerd.mesh.rotation.run import Rotation
from tests.support.meshes import quiet, store_of

FAST = RotationOptions(restarts=RestartPolicy(batch_size=100), load_seconds=20, lease_seconds=3)
# Certificates live for six seconds plus the clock skew allowance: renewed after 18 seconds.
GENTLE = FAST.model_copy(update={"pace": "gentle", "leaf_minutes": 0.1})


def ring_of(cluster: Cluster, config: MeshConfig) -> KeyRing:
    """Where a mesh's keys are kept, and the key that it provides, combined as the steps do it."""
    anchor = config.trust_anchor
    store = store_of(cluster, config)
    return KeyRing(store, lambda: provided_pair(anchor), is_shared=anchor.share_anchor)


def await_lease(cluster: Cluster) -> None:
    """Waits until the lease of a run that died expires, as the error tells the next run to do."""
    while True:
        found = cluster.get("v1", "ConfigMap", RECORD, "linkerd")
        until = found["data"].get("until") if found is not None else None
        if not until or datetime.fromisoformat(until) <= cluster.clock():
            return
        time.sleep(0.2)


def plan(
    cluster: Cluster,
    config: MeshConfig,
    new: NewAnchor | None = None,
    options: RotationOptions = FAST,
    action: Action = "rotate",
) -> RotationPlan:
    ring = ring_of(cluster, config)
    return inspect_rotation(
        Mesh(cluster, config),
        ring,
        new or NewAnchor(),
        options,
        action,
        cluster.clock(),
    )


def rotate(
    cluster: Cluster,
    config: MeshConfig,
    helm_path: str,
    new: NewAnchor | None = None,
    options: RotationOptions = FAST,
    action: Action = "rotate",
    owner: str = "test",
    probe: Probe | None = None,
) -> list[str]:
    """Does what the flow does, without Prefect, and returns the phases that it went through."""
    new = new or NewAnchor()
    plan(cluster, config, new, options, action)
    phases: list[str] = []
    with RotationClaim(cluster, config.namespaces.linkerd, owner, options.lease_seconds) as claim:
        ring = ring_of(cluster, config)
        # A Helm process whose flow died needs a shorter wait than one that may still run.
        helm = Helm(cluster, helm_path, grace=5)
        rotation = Rotation(Mesh(cluster, config, helm), ring, claim, options)
        rotation.probe = probe or rotation.probe
        rotation.begin(new, action)
        while True:
            phase = rotation.next_phase(recover=action == "recover")
            phases.append(phase)
            assert len(phases) < 20, phases
            if phase == "done":
                rotation.finish()
                return phases
            rotation.advance(phase, quiet, recover=action == "recover")
