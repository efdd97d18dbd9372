"""Runs a rotation; given a place to die, kills its own process there.

    python -m tests.prefect_linkerd.mesh.rotation.run_rotation
        KUBECONFIG MESH.json HELM ACTION [PLACE]

The pace may follow the action, as in `rotate:gentle`. A place is one of:

- `METHOD TEXT COUNT [PHASE]`: right after the COUNTth request with this method and TEXT in its
  path, while the rotation's record has this phase.
- `tell TEXT PHASE`: right after the story gets an entry with TEXT in this phase.
- `helm`: one second into the first Helm upgrade.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.records.rotation import RotationClaim, read_record
from prefect_linkerd.mesh.records.rotation import RotationRecord as Record
from tests.support.rotations import FAST, GENTLE, rotate


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_helm() -> None:
    reconcile = Helm.reconcile

    def dying(self: Helm, *args: Any, **options: Any) -> Any:
        threading.Timer(1.0, die).start()
        return reconcile(self, *args, **options)

    Helm.reconcile = dying  # type: ignore[method-assign]


def kill_after(words: str) -> None:
    _, text_wanted, phase_wanted = words.split(" ")
    tell = RotationClaim.tell

    def dying(self: RotationClaim, phase: str, text: str) -> None:
        tell(self, phase, text)
        if phase == phase_wanted and text_wanted in text:
            die()

    RotationClaim.tell = dying  # type: ignore[method-assign]


def kill_at(place: str, phase: str) -> None:
    method_wanted, text, count, *phases = place.split(" ")
    seen = 0
    request, save = Cluster.request, RotationClaim.save

    def watched(self: RotationClaim, record: Record, now: datetime | None = None) -> Record:
        nonlocal phase
        phase = record.phase
        return save(self, record, now)

    def dying(self: Cluster, method: str, path: str, **options: Any) -> Any:
        nonlocal seen
        answer = request(self, method, path, **options)
        if method == method_wanted and text in path and (not phases or phase in phases):
            seen += 1
            if seen == int(count):
                die()
        return answer

    Cluster.request = dying  # type: ignore[method-assign]
    RotationClaim.save = watched  # type: ignore[method-assign]


def main() -> None:
    kubeconfig, mesh, helm, action, *place = sys.argv[1:]
    config = MeshConfig.model_validate(json.loads(Path(mesh).read_text()))
    cluster = Cluster.from_file(Path(kubeconfig))
    if place == ["helm"]:
        kill_in_helm()
    elif place and place[0].startswith("tell "):
        kill_after(place[0])
    elif place:
        record = read_record(cluster, config.namespaces.linkerd)
        kill_at(place[0], record.phase if record is not None else "")
    owner = f"process {os.getpid()}"
    kind, _, pace = action.partition(":")
    options = GENTLE if pace else FAST
    done = rotate(cluster, config, helm, options=options, action=kind, owner=owner)  # type: ignore[arg-type]
    print(json.dumps(done))


if __name__ == "__main__":
    main()
