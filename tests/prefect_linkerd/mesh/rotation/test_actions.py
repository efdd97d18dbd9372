"""Going back, refusing, rotating only the issuer, and recovering, on meshes shared by tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, MeshBusy, NotReady, PreflightFailed
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.identity.issuer import IDENTITY_PODS
from prefect_linkerd.mesh.identity.trust_anchor import TRUST_ROOTS
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.kubelet import ANNOTATION
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import (
    create_trust_anchor,
    fingerprints,
    read_certificates,
)
from prefect_linkerd.mesh.records.rotation import RotationClaim, read_record
from prefect_linkerd.mesh.restarts import read_data_plane
from prefect_linkerd.mesh.rotation import run
from prefect_linkerd.mesh.rotation.issuer import inspect_issuer, rotate_issuer
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.leaves import LeafLifetimes, read_issued
from prefect_linkerd.mesh.rotation.options import Action, NewAnchor, RotationOptions
from prefect_linkerd.mesh.rotation.pace import LeafTimes
from prefect_linkerd.mesh.rotation.trust_bundle import read_trust_bundle
from prefect_linkerd.mesh.rotation.webhooks import inspect_webhooks
from prefect_linkerd.mesh.snapshot.expiry import read_expiries
from prefect_linkerd.mesh.snapshot.mesh import Pod
from prefect_linkerd.mesh.snapshot.proxy_metrics import Census
from sandbox.cluster import Sandbox
from tests.support.certificates import NOW, Made, make, private_pem
from tests.support.cluster_state import resource_versions
from tests.support.ended import end_anchor, end_issuer, everything_verifies
from tests.support.identities import RBAC, bound_account
from tests.support.invariant import Invariant, split
from tests.support.meshes import add_workloads, configuration, quiet, store_of
from tests.support.ready_meshes import ReadyMeshes, ready_control_plane
from tests.support.rotations import FAST, GENTLE, plan, ring_of, rotate

WORKLOADS = 8


@dataclass(frozen=True)
class Rotated:
    sandbox: Sandbox
    cluster: Cluster
    config: MeshConfig
    helm: str

    def anchors(self) -> frozenset[str]:
        return read_trust_bundle(Mesh(self.cluster, self.config)).anchors

    def rotate(self, **options: Any) -> list[str]:
        return rotate(self.cluster, self.config, self.helm, **options)


@pytest.fixture(scope="module")
def started(
    ready_meshes: ReadyMeshes,
    shared_dir: Path,
    helm_path: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str, str], Rotated]]:
    """Starts a mesh of a version and an issuer mode, with some workloads."""
    with ExitStack() as stack:

        def start(version: str, issuer: str) -> Rotated:
            folder = tmp_path_factory.mktemp(issuer)
            ready = ready_control_plane(
                ready_meshes, version, issuer, shared_dir, helm_path, folder
            )
            sandbox = stack.enter_context(ready)
            cluster = sandbox.cluster()
            add_workloads(cluster, WORKLOADS)
            config = configuration(version, shared_dir, folder, issuer)
            return Rotated(sandbox, cluster, config, helm_path)

        yield start


@pytest.fixture(scope="module")
def signed(started: Callable[[str, str], Rotated]) -> Rotated:
    return started("stable-2.12.6", "self-signed")


@pytest.fixture(scope="module")
def managed(started: Callable[[str, str], Rotated]) -> Rotated:
    return started("edge-26.8.3", "cert-manager")


class Stopped(Exception):
    pass


def stop_at(
    mesh: Rotated,
    sign: str,
    monkeypatch: pytest.MonkeyPatch,
    action: Action = "rotate",
    options: RotationOptions = FAST,
) -> None:
    """Rotates until the story gets an entry with `sign`, and stops right there."""
    tell = RotationClaim.tell

    def stopping(self: RotationClaim, phase: str, text: str) -> None:
        tell(self, phase, text)
        if sign in text:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(RotationClaim, "tell", stopping)
        with pytest.raises(Stopped):
            mesh.rotate(action=action, options=options)


def goes_back(
    mesh: Rotated,
    sign: str,
    monkeypatch: pytest.MonkeyPatch,
    options: RotationOptions = FAST,
) -> list[str]:
    before = mesh.anchors()
    with Invariant(mesh.sandbox):
        stop_at(mesh, sign, monkeypatch, options=options)
        phases = mesh.rotate(action="abort", options=options)
    assert mesh.anchors() == before
    assert len(before) == 1
    record = read_record(mesh.cluster, "linkerd")
    assert record is not None
    assert (record.phase, {record.goal}) == ("done", set(before))
    ring = KeyRing(store_of(mesh.cluster, mesh.config))
    kept = ring.current.load()
    assert kept is not None
    assert fingerprints(kept.certificate, "kept") == before
    assert (ring.next.load(), ring.previous.load()) == (None, None)
    for proxy in mesh.sandbox.proxies():
        bundle = fingerprints(proxy.bundle, proxy.name)
        # At the gentle pace nothing is restarted to forget the new anchor.
        assert before <= bundle if options.pace == "gentle" else bundle == before
    return phases


@pytest.mark.xdist_group("signed")
class TestSelfSigned:
    def test_unfit_anchors_are_refused_and_nothing_is_changed(
        self, signed: Rotated, tmp_path: Path
    ) -> None:
        def provided(made: Made, name: str) -> NewAnchor:
            key = tmp_path / f"{name}.key"
            key.write_text(private_pem(made.key))
            return NewAnchor(certificate=made.pem, private_key_file=key)

        shift = datetime.now(UTC) - NOW
        valid = {"starts": shift - timedelta(days=1), "ends": shift + timedelta(days=300)}
        rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
        current = KeyRing(store_of(signed.cluster, signed.config)).current.load()
        assert current is not None
        same_key = tmp_path / "same.key"
        same_key.write_text(current.private_key.get_secret_value())
        other = make(**valid)
        wrong_key = tmp_path / "wrong.key"
        wrong_key.write_text(private_pem(make(**valid).key))
        ended = {"starts": shift - timedelta(days=9), "ends": shift - timedelta(days=1)}
        cases = {
            "trust domain": provided(make("root.linkerd.other.example", **valid), "domain"),
            "expired": provided(make(**ended), "ended"),
            "trusts already": NewAnchor(certificate=current.certificate, private_key_file=same_key),
            "may not sign others": provided(make(is_ca=False, may_sign=False, **valid), "leaf"),
            "ECDSA P-256": provided(make(key=rsa_key, **valid), "rsa"),
            "private key of its certificate": NewAnchor(
                certificate=other.pem, private_key_file=wrong_key
            ),
            "outlives an issuer": provided(
                make(starts=shift - timedelta(days=1), ends=shift + timedelta(hours=5)), "short"
            ),
        }
        before = resource_versions(signed.cluster)
        for text, new in cases.items():
            with pytest.raises(InvalidInput, match=text):
                signed.rotate(new=new)
        with pytest.raises(InvalidInput, match="valid"):
            signed.rotate(action="recover")
        with pytest.raises(InvalidInput, match="in progress"):
            signed.rotate(action="abort")
        assert resource_versions(signed.cluster) == before
        assert KeyRing(store_of(signed.cluster, signed.config)).next.load() is None

    def test_a_mesh_that_is_not_well_is_refused_and_nothing_is_changed(
        self, signed: Rotated
    ) -> None:
        unready = {"sandbox.prefect-linkerd/ready": "false"}
        patch = {"spec": {"template": {"metadata": {"annotations": unready}}}}
        signed.cluster.merge("apps/v1", "Deployment", "app-0000", "apps", patch)
        try:
            deadline = time.monotonic() + 30
            while all(
                t.is_complete for t in read_data_plane(signed.cluster, "linkerd").targets.values()
            ):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            with pytest.raises(NotReady, match="Deployment/apps/app-0000"):
                plan(signed.cluster, signed.config)
            accepted = FAST.model_copy(update={"allow_unhealthy": True})
            found = plan(signed.cluster, signed.config, options=accepted)
            assert any("app-0000" in trouble for trouble in found.troubles)
        finally:
            well = {"spec": {"template": {"metadata": {"annotations": dict.fromkeys(unready)}}}}
            signed.cluster.merge("apps/v1", "Deployment", "app-0000", "apps", well)
            add_workloads(signed.cluster, WORKLOADS)
        assert read_record(signed.cluster, "linkerd") is None

    def test_a_dry_run_plans_every_restart_and_changes_nothing(self, signed: Rotated) -> None:
        before = resource_versions(signed.cluster)
        found = plan(signed.cluster, signed.config, action="dry_run")
        assert resource_versions(signed.cluster) == before
        assert {name: each.restarts for name, each in found.restarts.items()} == dict.fromkeys(
            ("spread", "switch", "drop"), WORKLOADS + 3
        )
        assert found.phase == "prepare"
        assert found.seconds > 0

    def test_who_may_not_do_all_of_it_is_told_before_anything_is_changed(
        self, signed: Rotated
    ) -> None:
        name = "no-patch"
        rule = {
            "apiGroups": ["*"],
            "resources": ["*"],
            "verbs": ["get", "list", "create", "update", "delete"],
        }
        role = {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": {"name": name}}
        signed.cluster.create({**role, "rules": [rule]})
        narrow = replace(signed, cluster=bound_account(signed.cluster, "default", name, name))
        deadline = time.monotonic() + 30
        while not narrow.cluster.allowed("list", "pods"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        before = resource_versions(signed.cluster)
        with pytest.raises(PreflightFailed) as caught:
            narrow.rotate()
        assert {
            "patch deployments.apps in namespace apps",
            "patch deployments.apps in namespace linkerd",
            "patch secrets in namespace linkerd",
        } < set(caught.value.found.removeprefix("this identity may not ").split("; "))
        with pytest.raises(PreflightFailed, match="patch secrets linkerd-identity-issuer"):
            new_issuer(narrow)
        planned = plan(narrow.cluster, signed.config, action="dry_run")
        assert planned.troubles[-1] == caught.value.found
        assert resource_versions(signed.cluster) == before

    def test_two_rotations_cannot_run_at_once_and_a_dead_one_is_taken_over(
        self, signed: Rotated
    ) -> None:
        def claim(owner: str) -> RotationClaim:
            return RotationClaim(signed.cluster, "linkerd", owner, 3)

        one, other = claim("one"), claim("other")
        with one:
            with pytest.raises(MeshBusy, match="one is running"):
                other.__enter__()
            # It dies: its lease is neither renewed nor released.
            one._over.set()
            one._thread.join()
            signed.cluster.wait_until(signed.cluster.clock() + timedelta(seconds=5))
            with claim("third"):
                with pytest.raises(MeshBusy, match="third"):
                    one._write(lambda data: data)
                with pytest.raises(MeshBusy):
                    one.check()

    def test_proxies_say_when_their_certificates_were_issued(self, signed: Rotated) -> None:
        times_are_those_of_the_certificates(signed)

    def test_webhooks_are_not_renewed_where_that_would_take_an_anchor_back(
        self, signed: Rotated
    ) -> None:
        """As after a rotation that was killed between writing the ConfigMap and its release."""
        roots = signed.cluster.get("v1", "ConfigMap", TRUST_ROOTS, "linkerd")
        assert roots is not None
        both = roots["data"]["ca-bundle.crt"] + make().pem
        for bundle, is_refused in ((both, True), (roots["data"]["ca-bundle.crt"], False)):
            data = {"data": {"ca-bundle.crt": bundle}}
            signed.cluster.merge("v1", "ConfigMap", TRUST_ROOTS, "linkerd", data)
            if is_refused:
                with pytest.raises(InvalidInput, match="Finish the rotation with rotate_anchor"):
                    inspect_webhooks(Mesh(signed.cluster, signed.config))
            else:
                assert "linkerd/linkerd-proxy-injector-k8s-tls" in inspect_webhooks(
                    Mesh(signed.cluster, signed.config)
                )

    def test_a_new_issuer_needs_no_restart(self, signed: Rotated) -> None:
        new_issuer_without_a_restart(signed)

    @pytest.mark.parametrize(
        ("sign", "phases"),
        [
            ("2 anchors trusted", ["drop", "done"]),
            ("The issuer is signed by", ["switch", "drop", "done"]),
            ("Identity has signed with it", ["switch", "drop", "done"]),
            ("one anchor.", ["bundle", "switch", "drop", "done"]),
        ],
    )
    def test_it_goes_back_from_anywhere(
        self, signed: Rotated, sign: str, phases: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = goes_back(signed, sign, monkeypatch)
        assert [phase for phase in phases if phase in found] == phases

    def test_a_key_that_is_only_provided_signs_a_new_issuer(
        self, signed: Rotated, tmp_path: Path
    ) -> None:
        store = store_of(signed.cluster, signed.config)
        pair = store.load()
        assert pair is not None
        (tmp_path / "ca.crt").write_text(pair.certificate)
        (tmp_path / "ca.key").write_text(pair.private_key.get_secret_value())
        store.remove()
        with pytest.raises(InvalidInput, match=r"trust_anchor\.certificate_file") as caught:
            new_issuer(signed)
        provided = {
            "certificate_file": tmp_path / "ca.crt",
            "private_key_file": tmp_path / "ca.key",
        }
        assert all(name in caught.value.remedy for name in provided)
        anchor = signed.config.trust_anchor.model_copy(update=provided)
        own = replace(signed, config=signed.config.model_copy(update={"trust_anchor": anchor}))
        done = new_issuer(own)
        assert done.before.fingerprint != done.after.fingerprint
        assert store.load() is None
        # A rotation also finds it, in case it has to go back.
        ring = ring_of(own.cluster, own.config)
        assert ring.find(*own.anchors()) == pair
        plan(own.cluster, own.config)
        store.store_once(pair)

    def test_a_place_with_another_clusters_key_is_refused_and_left_alone(
        self, signed: Rotated
    ) -> None:
        store = store_of(signed.cluster, signed.config)
        ours = store.load()
        assert ours is not None
        theirs = create_trust_anchor("cluster.local", timedelta(days=9), signed.cluster.clock())
        store.replace(replace(theirs, cluster="6c2f0a52-0000-4b1e-8000-000000000001"))
        try:
            for action in ("rotate", "dry_run"):
                with pytest.raises(InvalidInput, match="6c2f0a52") as caught:
                    signed.rotate(action=action)
                assert caught.value.subject == store.where
            assert store.load() == theirs
            assert store.beside("next").load() is None
        finally:
            store.replace(ours)

    @pytest.mark.waits
    def test_a_bundle_without_the_issuers_anchor_is_recovered_as_verify_advises(
        self, signed: Rotated
    ) -> None:
        other = create_trust_anchor("cluster.local", timedelta(days=9), signed.cluster.clock())
        data = {"data": {"ca-bundle.crt": other.certificate}}
        signed.cluster.merge("v1", "ConfigMap", TRUST_ROOTS, "linkerd", data)
        with pytest.raises(InvalidInput, match="rotate_anchor with recover"):
            new_issuer(signed)
        with pytest.raises(InvalidInput, match="rotate_anchor with recover"):
            signed.rotate(options=FAST.model_copy(update={"allow_unhealthy": True}))
        accepted = FAST.model_copy(update={"accept_downtime": True})
        assert signed.rotate(action="recover", options=accepted)[-1] == "done"
        everything_verifies(signed.sandbox)

    def test_an_issuer_that_has_ended_is_replaced_with_a_downtime(self, signed: Rotated) -> None:
        anchor = KeyRing(store_of(signed.cluster, signed.config)).current.load()
        assert anchor is not None
        end_issuer(signed.sandbox, anchor)
        with pytest.raises(InvalidInput, match="accept_downtime"):
            new_issuer(signed)
        with pytest.raises(InvalidInput, match="recover"):
            signed.rotate()
        done = new_issuer(signed, accept_downtime=True)
        assert done.restarted == WORKLOADS + 3
        # The control plane's workloads one by one, then the applications.
        assert len(done.traffic) == 4
        everything_verifies(signed.sandbox)

    def test_an_anchor_that_has_ended_is_replaced_with_a_downtime(self, signed: Rotated) -> None:
        store = store_of(signed.cluster, signed.config)
        ended = end_anchor(signed.sandbox, signed.config, signed.helm, store)
        with pytest.raises(InvalidInput, match="recover"):
            new_issuer(signed, accept_downtime=True)
        with pytest.raises(InvalidInput, match="accept_downtime"):
            signed.rotate(action="recover")
        accepted = FAST.model_copy(update={"accept_downtime": True})
        phases = signed.rotate(action="recover", options=accepted)
        assert phases == ["switch", "bundle", "spread", "done"]
        everything_verifies(signed.sandbox)
        assert not signed.anchors() & fingerprints(ended.certificate, "ended")


@pytest.mark.waits
@pytest.mark.xdist_group("managed")
class TestCertManager:
    def test_certificates_of_webhooks_are_cert_managers_to_renew(self, managed: Rotated) -> None:
        before = resource_versions(managed.cluster)
        with pytest.raises(InvalidInput) as refused:
            inspect_webhooks(Mesh(managed.cluster, managed.config))
        assert refused.value.found.count("cert-manager renews it by Certificate linkerd-") == 3
        assert resource_versions(managed.cluster) == before
        kept = [
            e for e in read_expiries(Mesh(managed.cluster, managed.config)) if e.role == "webhook"
        ]
        assert {expiry.renewed_by for expiry in kept} == {"cert-manager"}

    @pytest.mark.real_charts
    def test_proxies_say_when_their_certificates_were_issued(self, managed: Rotated) -> None:
        times_are_those_of_the_certificates(managed)

    def test_a_new_issuer_needs_no_restart(self, managed: Rotated) -> None:
        new_issuer_without_a_restart(managed)

    @pytest.mark.parametrize("sign", ["2 anchors trusted", "one anchor."])
    def test_it_goes_back_from_anywhere(
        self, managed: Rotated, sign: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        goes_back(managed, sign, monkeypatch)

    def test_it_goes_back_gently_and_restarts_what_does_not_renew_in_time(
        self, managed: Rotated, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        release = read_trust_bundle(Mesh(managed.cluster, managed.config)).release

        def read_others(
            cluster: Cluster, pods: Sequence[Pod], lifetimes: LeafLifetimes, census: Census
        ) -> Any:
            others = [p for p in pods if not p.name.startswith("app-0003-")]
            return read_issued(cluster, others, lifetimes, census)

        # The rotation cannot see whether this one has renewed.
        monkeypatch.setattr(run, "read_issued", read_others)
        monkeypatch.setattr(LeafTimes, "grace", timedelta(seconds=1))
        goes_back(managed, "Identity has signed with it", monkeypatch, GENTLE)

        record = read_record(managed.cluster, "linkerd")
        assert record is not None
        applications = [name for name in record.restarted["switch"] if "/apps/" in name]
        assert applications == ["Deployment/apps/app-0003"]
        assert "app-0003-" in str([c.text for c in record.story if "not renewed" in c.text])
        after = read_trust_bundle(Mesh(managed.cluster, managed.config)).release
        assert release is not None
        assert after is not None
        assert after.values == release.values

    def test_what_nobody_can_restart_is_named_and_the_rest_waits(self, managed: Rotated) -> None:
        bare = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "bare", "namespace": "apps"},
            "spec": {"containers": [{"name": "app", "image": "example.com/app:1"}]},
        }
        managed.cluster.create(bare)
        add_workloads(managed.cluster, WORKLOADS + 0)
        deadline = time.monotonic() + 30
        while not any(p.name == "bare" and p.chain for p in managed.sandbox.proxies()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with Invariant(managed.sandbox):
            with pytest.raises(NotReady, match="Pod/apps/bare: no Deployment"):
                managed.rotate()
            managed.cluster.delete("v1", "Pod", "bare", "apps")
            phases = managed.rotate()
        assert phases[-1] == "done"
        assert "switch" in phases


def is_well(cluster: Cluster) -> bool:
    return all(t.is_complete for t in read_data_plane(cluster, "linkerd").targets.values())


def new_issuer(mesh: Rotated, **options: Any) -> Any:
    ring = ring_of(mesh.cluster, mesh.config)
    wanted = FAST.model_copy(update=options)
    there = Mesh(mesh.cluster, mesh.config, Helm(mesh.cluster, mesh.helm))
    before = inspect_issuer(there, ring, wanted).issuer
    with RotationClaim(mesh.cluster, "linkerd", "issuer", 30) as claim:
        return rotate_issuer(there, ring, claim, wanted, before, quiet)


def new_issuer_without_a_restart(mesh: Rotated) -> None:
    pods = {pod.uid for pod in read_data_plane(mesh.cluster, "linkerd").pods}
    anchors = mesh.anchors()
    with Invariant(mesh.sandbox, every=0.1):
        done = new_issuer(mesh)
        time.sleep(1)
    assert done.before is not None
    assert done.before.fingerprint != done.after.fingerprint
    assert {pod.uid for pod in read_data_plane(mesh.cluster, "linkerd").pods} == pods
    assert mesh.anchors() == anchors
    # The annotation makes the kubelet refresh the mounted Secret at once.
    identity = list(mesh.cluster.list("v1", "Pod", "linkerd", labels=IDENTITY_PODS))
    assert identity
    assert all(ANNOTATION in pod["metadata"]["annotations"] for pod in identity)
    # A pod that starts now gets a leaf from the new issuer.
    running = read_data_plane(mesh.cluster, "linkerd").pods
    name = next(pod.name for pod in running if pod.namespace == "apps")
    mesh.cluster.delete("v1", "Pod", name, "apps")
    deadline = time.monotonic() + 30
    wanted = done.after.fingerprint
    while not any(wanted in chain_of(proxy.chain) for proxy in mesh.sandbox.proxies()):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def times_are_those_of_the_certificates(mesh: Rotated) -> None:
    """Times read through the API server are never later than the certificate's own."""
    pods = read_data_plane(mesh.cluster, "linkerd").pods
    day = LeafLifetimes(frozenset({timedelta(hours=24)}))
    issued = read_issued(mesh.cluster, pods, day)
    assert set(issued) == {pod.uid for pod in pods}
    for proxy in mesh.sandbox.proxies():
        # Leaves are backdated by the allowed clock skew; a short-lived issuer cuts their end.
        leaf = read_certificates(split(proxy.chain)[0], proxy.name)[0]
        real = leaf.not_before + timedelta(seconds=20)
        is_cut = leaf.not_after - leaf.not_before < timedelta(hours=24)
        assert issued[proxy.uid] <= real + timedelta(seconds=1)
        assert is_cut or real - issued[proxy.uid] < timedelta(seconds=2)


def chain_of(chain: str) -> frozenset[str]:
    _, rest = split(chain)
    return fingerprints(rest, "chain") if rest.strip() else frozenset()
