"""A step starts from what the step before it read, if that was just now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.identity.certificate_anchor import CertificateAnchor
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import RotationClaim, RotationRecord
from prefect_linkerd.mesh.restarts import DataPlane
from prefect_linkerd.mesh.rotation import run
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.leaves import IssuerLoad
from prefect_linkerd.mesh.rotation.options import RotationOptions
from prefect_linkerd.mesh.rotation.run import FRESH, Rotation
from prefect_linkerd.mesh.rotation.snapshot import RotationSnapshot
from prefect_linkerd.mesh.rotation.trust_bundle import TrustBundle


def snapshot() -> RotationSnapshot:
    plane = DataPlane("linkerd", frozenset(), (), {}, ())
    bundle = TrustBundle("", None, "release", None, "")
    return RotationSnapshot("new", bundle, plane, None, None, IssuerLoad(None), None)


class Handing(Rotation):
    """A rotation that records its reads."""

    def __init__(self) -> None:
        mesh = Mesh(cast("Cluster", None), MeshConfig(name="test"))
        nothing = cast("Any", None)
        super().__init__(
            mesh, cast("KeyRing", nothing), cast("RotationClaim", nothing), RotationOptions()
        )
        self.reads: list[RotationSnapshot] = []

    @property
    def record(self) -> RotationRecord:
        return RotationRecord("new", "old", "", "spread", "")

    def hand_on(self, snapshot: RotationSnapshot) -> None:
        self._keep_snapshot(snapshot)

    def take(self) -> RotationSnapshot:
        return self._take_snapshot()

    def read_pods(self) -> RotationSnapshot:
        return self._read_pods()

    def is_whole(self, snapshot: RotationSnapshot) -> bool:
        return snapshot.data_plane is self._whole


@pytest.fixture
def rotation(monkeypatch: pytest.MonkeyPatch) -> Handing:
    made = Handing()

    def read(_mesh: object, _goal: str, data_plane: DataPlane | None) -> RotationSnapshot:
        seen = snapshot()
        made.reads.append(replace(seen, data_plane=data_plane or seen.data_plane))
        return made.reads[-1]

    monkeypatch.setattr(run, "read_rotation", read)
    monkeypatch.setattr(run, "with_current_pods", lambda _, plane: replace(plane))
    return made


def test_what_was_just_read_is_read_once(rotation: Handing) -> None:
    # Answers from proxies since then are no reason to read the mesh again.
    seen = replace(rotation.read(), issued={})
    rotation.hand_on(seen)
    assert rotation.take() is seen
    # A snapshot is taken only once, because the step that takes it changes the mesh.
    assert rotation.take() is not seen
    assert len(rotation.reads) == 2


def test_what_is_older_is_read_again(rotation: Handing, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(run.time, "monotonic", lambda: now)
    seen = rotation.read()
    rotation.hand_on(seen)
    # Time passes, as during an approval.
    now += FRESH
    assert rotation.take() is not seen


def test_what_was_read_before_something_else_is_read_again(rotation: Handing) -> None:
    seen = rotation.read()
    rotation.hand_on(seen)
    rotation.read()
    assert rotation.take() is rotation.reads[2]


def test_a_certificates_anchor_is_always_read(rotation: Handing) -> None:
    seen = replace(rotation.read(), anchor=cast("CertificateAnchor", object()))
    rotation.hand_on(seen)
    assert rotation.take() is not seen


def test_no_restart_is_planned_by_what_only_the_pods_were_read_of(rotation: Handing) -> None:
    # Without an earlier full read, their workloads are unknown, so everything is read.
    assert rotation.is_whole(rotation.read_pods())
    again = rotation.read_pods()
    assert not rotation.is_whole(again)
    # A snapshot of pods is handed on, as by a proof.
    rotation.hand_on(again)
    assert rotation.take() is again
