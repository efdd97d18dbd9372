"""Rotation where the real cert-manager makes the anchor and the real trust-manager the bundle."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.checks.certificates import certificates
from prefect_linkerd.mesh.checks.unfinished import unfinished
from prefect_linkerd.mesh.errors import InvalidInput, OwnershipConflict
from prefect_linkerd.mesh.identity.certificate_anchor import (
    CertificateAnchor,
    read_certificate_anchor,
)
from prefect_linkerd.mesh.identity.trust_anchor import TRUST_ROOTS, read_tls_secret, tls_secret
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor, fingerprints
from prefect_linkerd.mesh.records.rotation import read_record
from prefect_linkerd.mesh.rotation.issuer import inspect_issuer
from prefect_linkerd.mesh.rotation.issuer_renewal import await_issued, renew
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.options import NewAnchor
from prefect_linkerd.mesh.rotation.phases import NO_WAY_BACK
from prefect_linkerd.mesh.rotation.trust_bundle import await_roots, read_trust_bundle
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
from tests.prefect_linkerd.mesh.rotation.test_actions import Rotated, stop_at
from tests.prefect_linkerd.mesh.rotation.test_killed import run_rotation
from tests.prefect_linkerd.mesh.rotation.test_rotation import (
    PATIENT,
    SMALL,
    only_the_new_anchor_is_used,
)
from tests.support.invariant import Invariant
from tests.support.meshes import add_workloads, store_of
from tests.support.ready_meshes import ReadyMeshes
from tests.support.rotations import FAST, await_lease, plan
from tests.support.trust_manager import (
    CURRENT,
    HOME,
    PREVIOUS,
    documented,
    documented_mesh,
)

pytestmark = [pytest.mark.real_charts, pytest.mark.xdist_group("certificate anchor")]

WORKLOADS = 12
BUNDLE = "trust.cert-manager.io/v1alpha1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificate-anchor")


@pytest.fixture(scope="module")
def workloads(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--workloads") or WORKLOADS


@pytest.fixture(scope="module")
def mesh(
    ready_meshes: ReadyMeshes, shared_dir: Path, helm_path: str, folder: Path, workloads: int
) -> Iterator[Rotated]:
    version = "edge-26.8.3"
    install = documented_mesh(version, shared_dir, helm_path)
    with ready_meshes.copy(f"documented {version}", folder, install) as sandbox:
        cluster = sandbox.cluster()
        add_workloads(cluster, workloads)
        config = documented(shared_dir, folder, version, name="documented")
        yield Rotated(sandbox, cluster, config, helm_path)


def layout(mesh: Rotated) -> CertificateAnchor:
    found = read_certificate_anchor(Mesh(mesh.cluster, mesh.config))
    assert found is not None
    return found


def settled(mesh: Rotated, *, besides: frozenset[str]) -> None:
    """One new anchor everywhere, and the copy holds it, as the documentation leaves it."""
    anchor = layout(mesh)
    anchors = frozenset({anchor.current.fingerprint})
    assert mesh.anchors() == anchors
    assert not anchors & besides
    assert anchor.copy.anchors == anchors
    only_the_new_anchor_is_used(mesh.sandbox, mesh.cluster, anchors, None)
    record = read_record(mesh.cluster, "linkerd")
    assert record is not None
    assert (record.phase, {record.goal}) == ("done", anchors)


def spec_and_managers(mesh: Rotated) -> dict[str, Any]:
    """The objects that are not ours: their specs and who wrote them."""
    found: dict[str, Any] = {}
    for api, kind, name, namespace in (
        ("cert-manager.io/v1", "Certificate", CURRENT, HOME),
        ("cert-manager.io/v1", "Certificate", "linkerd-identity-issuer", "linkerd"),
        ("cert-manager.io/v1", "Issuer", "linkerd-trust-root-issuer", HOME),
        ("cert-manager.io/v1", "ClusterIssuer", "linkerd-identity-issuer", None),
        (BUNDLE, "Bundle", TRUST_ROOTS, None),
    ):
        obj = mesh.cluster.get(api, kind, name, namespace)
        assert obj is not None
        found[f"{kind}/{name}"] = (obj["metadata"]["generation"], obj["spec"])
    for name, namespace in ((CURRENT, HOME), ("linkerd-identity-issuer", "linkerd")):
        obj = mesh.cluster.get("v1", "Secret", name, namespace)
        assert obj is not None
        found[f"Secret/{name}"] = sorted(f["manager"] for f in obj["metadata"]["managedFields"])
    roots = mesh.cluster.get("v1", "ConfigMap", TRUST_ROOTS, "linkerd")
    assert roots is not None
    found[TRUST_ROOTS] = [f["manager"] for f in roots["metadata"]["managedFields"]]
    release = read_trust_bundle(Mesh(mesh.cluster, mesh.config)).release
    assert release is not None
    found["release"] = (release.revision, release.values)
    return found


def started(mesh: Rotated) -> dict[str, Any]:
    pods = mesh.cluster.list("v1", "Pod", labels="linkerd.io/control-plane-ns=linkerd")
    return {pod["metadata"]["uid"]: pod["metadata"]["creationTimestamp"] for pod in pods}


def test_killed_and_aborted_in_every_phase_it_goes_forward_and_says_so(
    mesh: Rotated, folder: Path, workloads: int
) -> None:
    before, theirs = mesh.anchors(), spec_and_managers(mesh)
    # The copy was never made, so there is something to prepare.
    mesh.cluster.delete("v1", "Secret", PREVIOUS, HOME)
    goals: set[str] = set()

    def run(action: str, *place: str) -> Any:
        await_lease(mesh.cluster)
        return run_rotation(mesh.sandbox, mesh.config, mesh.helm, folder, action, *place)

    with Invariant(mesh.sandbox):
        for action, place, phase in (
            # Only the copy has been made.
            ("rotate", "POST namespaces/cert-manager/secrets 1", "prepare"),
            # cert-manager has been asked to renew but may not have issued yet.
            ("rotate", "PATCH certificates/linkerd-trust-anchor/status 1", "renew"),
            ("abort", f"PATCH namespaces/apps/deployments {workloads // 4} spread", "spread"),
            ("abort", "PATCH certificates/linkerd-identity-issuer/status 1", "spread"),
            ("rotate", f"PATCH namespaces/apps/deployments {workloads // 3} switch", "switch"),
            # The old anchor leaves the bundle; then halfway through the last restarts.
            ("abort", "PATCH secrets/linkerd-previous-anchor 1", "switch"),
            ("rotate", f"PATCH namespaces/apps/deployments {workloads // 6} drop", "drop"),
        ):
            killed = run(action, place)
            assert killed.returncode == -signal.SIGKILL, f"{place}: {killed.stderr[-3000:]}"
            record = read_record(mesh.cluster, "linkerd")
            assert record is not None
            assert record.phase == phase, place
            goals |= {record.goal} - {""}
        warnings = plan(mesh.cluster, mesh.config, action="abort").warnings
        assert any(NO_WAY_BACK in warning for warning in warnings)
        finished = run("abort")
        assert finished.returncode == 0, finished.stderr[-3000:]

    # The new anchor is the same from the first run to the last.
    assert len(goals) == 1
    record = read_record(mesh.cluster, "linkerd")
    assert record is not None
    aborts = [chapter.phase for chapter in record.story if chapter.text.startswith("Abort:")]
    assert aborts == ["renew", "spread", "switch", "drop"]
    settled(mesh, besides=before)
    assert spec_and_managers(mesh) == theirs


def test_an_abort_goes_back_until_the_new_anchor_is_asked_for(
    mesh: Rotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, pods = mesh.anchors(), started(mesh)
    for sign in ("To a new anchor", "is renewed"):
        stop_at(mesh, sign, monkeypatch)
        await_lease(mesh.cluster)
        assert plan(mesh.cluster, mesh.config, action="abort").warnings == ()
        assert mesh.rotate(action="abort") == ["done"]
        record = read_record(mesh.cluster, "linkerd")
        assert record is not None
        assert (record.phase, record.is_going_back) == ("done", True)
    assert (mesh.anchors(), started(mesh)) == (before, pods)


def renewed(mesh: Rotated, name: str, namespace: str, secret: str) -> None:
    """Renews a Certificate, as cert-manager does on its own schedule."""
    was = read_tls_secret(mesh.cluster, secret, namespace)
    assert was is not None
    renew(mesh.cluster, namespace, name)
    now = was
    while now.certificate == was.certificate:
        now = await_issued(mesh.cluster, namespace, name, secret, 60)


def said(mesh: Rotated, check: str) -> list[str]:
    """The problems that a check finds in the mesh."""
    snapshot = read_snapshot(Mesh(mesh.cluster, mesh.config))
    (result,) = (
        result
        for category in (certificates, unfinished)
        for result in category.run(snapshot).results
        if result.check.id == check
    )
    assert not result.is_broken
    assert result.outcome != "skipped", result.reason
    return [str(problem) for problem in result.problems]


def identity_pods_of_one_rollout(text: str) -> bool:
    """After an issuer was renewed too early, the new identity pod signs with it from its start.

    Its own proxy then has such a leaf while the old identity pod is still terminating.
    """
    return bool(re.search(r"linkerd-identity-\S+ cannot verify linkerd-identity-\S+$", text))


def test_what_cert_manager_began_by_itself_is_taken_over(mesh: Rotated, workloads: int) -> None:
    """The worst case: the copy was never made, and the issuer was renewed as well."""
    before = mesh.anchors()
    stale = create_trust_anchor("cluster.local", mesh.config.lifetimes.anchor, mesh.cluster.clock())
    mesh.cluster.apply(
        tls_secret(PREVIOUS, HOME, stale.certificate, stale.private_key, stale.certificate)
    )
    unrelated = fingerprints(stale.certificate, "stale")
    await_roots(Mesh(mesh.cluster, mesh.config), before | unrelated)
    with Invariant(mesh.sandbox, tolerated=identity_pods_of_one_rollout):
        renewed(mesh, CURRENT, HOME, CURRENT)
        anchor = layout(mesh)
        current = anchor.current.fingerprint
        await_roots(Mesh(mesh.cluster, mesh.config), frozenset({current}) | unrelated)
        (problem,) = said(mesh, "pl-anchor-trusted")
        without = rf"{workloads + 3} proxies do not trust it: .*under it in 2[0-3]\.\d h"
        assert re.search(without, problem), problem
        with pytest.raises(InvalidInput, match="rotate_anchor, which takes over"):
            inspect_issuer(
                Mesh(mesh.cluster, mesh.config),
                KeyRing(store_of(mesh.cluster, mesh.config)),
                FAST,
            )
        renewed(mesh, "linkerd-identity-issuer", "linkerd", "linkerd-identity-issuer")
        (problem,) = said(mesh, "pl-anchor-trusted")
        assert "it signed the issuer" in problem
        found = plan(mesh.cluster, mesh.config)
        assert any("takes over" in warning for warning in found.warnings)
        assert found.goal is not None
        assert found.goal.fingerprint == current

        phases = mesh.rotate(options=PATIENT)

    assert phases == ["bundle", "spread", "switch", "drop", "done"]
    settled(mesh, besides=before | unrelated)
    assert layout(mesh).current.fingerprint == current
    assert said(mesh, "pl-anchor-trusted") == said(mesh, "pl-rotation-open") == []


def label(mesh: Rotated, labels: Mapping[str, str | None]) -> None:
    mesh.cluster.merge("v1", "Secret", PREVIOUS, HOME, {"metadata": {"labels": labels}})


def test_a_bundle_without_a_place_for_the_previous_anchor_is_refused(
    mesh: Rotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = mesh.cluster.get(BUNDLE, "Bundle", TRUST_ROOTS)
    assert bundle is not None
    sources = bundle["spec"]["sources"]

    def write(changed: list[dict[str, Any]]) -> None:
        mesh.cluster.merge(BUNDLE, "Bundle", TRUST_ROOTS, None, {"spec": {"sources": changed}})

    theirs = spec_and_managers(mesh)["Secret/linkerd-trust-anchor"]
    stop_at(mesh, "To a new anchor", monkeypatch)
    (problem,) = said(mesh, "pl-rotation-open")
    assert "in phase prepare" in problem
    mesh.rotate(action="abort")
    write([source for source in sources if source["secret"]["name"] == CURRENT])
    try:
        with pytest.raises(OwnershipConflict, match="one copy of the previous anchor's Secret"):
            mesh.rotate()
    finally:
        write(sources)
    labels = {"kustomize.toolkit.fluxcd.io/name": "pki"}
    label(mesh, labels)
    try:
        with pytest.raises(OwnershipConflict, match="Flux"):
            mesh.rotate()
    finally:
        label(mesh, dict.fromkeys(labels))
    made = create_trust_anchor("cluster.local", mesh.config.lifetimes.anchor, mesh.cluster.clock())
    own = NewAnchor(certificate=made.certificate, private_key_file=Path("key"))
    with pytest.raises(InvalidInput, match="cert-manager makes the anchor"):
        plan(mesh.cluster, mesh.config, own)
    assert spec_and_managers(mesh)["Secret/linkerd-trust-anchor"] == theirs


def test_a_whole_rotation_writes_nothing_that_is_not_asked_for(
    mesh: Rotated, request: pytest.FixtureRequest
) -> None:
    workloads: int = request.config.getoption("--workloads") or SMALL
    add_workloads(mesh.cluster, workloads)
    before, theirs = mesh.anchors(), spec_and_managers(mesh)

    with Invariant(mesh.sandbox) as invariant:
        phases = mesh.rotate(options=PATIENT)

    # trust-manager usually finishes before the next look, so phase bundle may not show.
    assert [p for p in phases if p != "bundle"] == ["renew", "spread", "switch", "drop", "done"]
    assert invariant.largest >= workloads + 3
    settled(mesh, besides=before)
    assert spec_and_managers(mesh) == theirs
