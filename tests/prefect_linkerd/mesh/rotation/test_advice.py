"""Following the advice of a rotation's refusals resolves them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import (
    InvalidInput,
    MeshError,
    NotReady,
    OwnershipConflict,
    PreflightFailed,
)
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.ownership import OURS, Owner
from prefect_linkerd.mesh.helm.records import Release, ReleaseRef
from prefect_linkerd.mesh.identity.certificate_anchor import _unfit
from prefect_linkerd.mesh.identity.trust_anchor import FileKeyStore, TlsSecret, tls_secret
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.permissions import Permission, in_words
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import fingerprints, join_bundle
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.rotation.issuer_renewal import require_writable
from prefect_linkerd.mesh.rotation.key_ring import KeyRing
from prefect_linkerd.mesh.rotation.options import Action, NewAnchor, RotationOptions
from prefect_linkerd.mesh.rotation.permissions import require
from prefect_linkerd.mesh.rotation.phases import SPARE, spread_takes
from prefect_linkerd.mesh.rotation.plan import _decide_goal, _goal_to_drop, _require_left
from prefect_linkerd.mesh.rotation.preconditions import (
    check_new_anchor,
    nothing_to_abort,
    refuse,
    require_certificate_layout,
    require_quick,
    require_way_back,
)
from prefect_linkerd.mesh.rotation.snapshot import RotationSnapshot
from prefect_linkerd.mesh.rotation.trust_bundle import TrustBundle, require_installed
from prefect_linkerd.mesh.snapshot.webhooks import plan_renewal
from tests.prefect_linkerd.mesh.rotation.test_certificate_phases import (
    NEW,
    OLD,
    OTHER,
    kept,
    pod,
    seen,
)
from tests.prefect_linkerd.mesh.rotation.test_key_ring import PASSPHRASE, anchor, fp
from tests.prefect_linkerd.mesh.rotation.test_webhooks import PLANE, certificate, release
from tests.support.advice import advice, follows, follows_each
from tests.support.certificates import NOW, make

CONFIG = MeshConfig()
ACCEPTED = RotationOptions(accept_downtime=True)
FLUX = {"name": "n", "labels": {"kustomize.toolkit.fluxcd.io/name": "k"}}


@follows(
    "Provide a new one, or none",
    "Provide one that lives longer.",
)
def test_advice_about_a_new_anchor() -> None:
    old, new = make().pem, make().pem
    short = make(ends=timedelta(hours=2)).pem

    def check(certificate: str) -> object:
        return check_new_anchor(certificate, CONFIG, old, NOW)

    assert advice(InvalidInput, lambda: check(old)).startswith("Provide a new one, or none")
    assert advice(InvalidInput, lambda: check(short)) == "Provide one that lives longer."
    assert check(new)


@follows(
    "Provide none, or run rotate_anchor without the action drop.",
    "Leave the mesh as it is, or run rotate_anchor to begin a rotation.",
)
def test_advice_about_the_last_round_of_a_gentle_rotation() -> None:
    ended = RotationRecord(NEW.fingerprint, OLD.fingerprint, NEW.pem, "done", "", dropped="now")
    refused = advice(InvalidInput, lambda: _goal_to_drop(ended, NEW.pem))
    assert refused == "Provide none, or run rotate_anchor without the action drop."
    assert _goal_to_drop(ended, None) == NEW.fingerprint
    nothing = "Leave the mesh as it is, or run rotate_anchor to begin a rotation."
    for record in (None, replace(ended, phase="spread", dropped="")):
        refused = advice(InvalidInput, lambda record=record: _goal_to_drop(record, None))
        assert refused == nothing
    left, alone = pod(OLD, NEW), pod(NEW)
    for anchors, pods in (((NEW,), (alone,)), ((NEW, OLD), (left,))):
        snapshot = seen(NEW, (NEW,), *pods, trusted=anchors, goal=NEW)
        refused = advice(
            InvalidInput, lambda snapshot=snapshot: _require_left(snapshot, is_open=False)
        )
        assert refused == nothing
    _require_left(seen(NEW, (NEW,), left, alone, goal=NEW), is_open=False)


@follows("Set pace to quick or auto.")
def test_advice_about_the_pace_where_cert_manager_makes_the_anchor() -> None:
    snapshot = seen(OLD, ())
    refused = advice(InvalidInput, lambda: require_quick(RotationOptions(pace="gentle"), snapshot))
    assert refused == "Set pace to quick or auto."
    require_quick(RotationOptions(pace="quick"), snapshot)
    require_quick(RotationOptions(), snapshot)


Asked = tuple[Action, RotationOptions, dict[str, Any]]
HEALTHY: dict[str, Any] = {"found": (), "expired": False, "unsigned": False, "is_open": False}
EXPIRED = HEALTHY | {"expired": True}
UNHEALTHY = HEALTHY | {"found": ("Pod/apps/a: not ready",)}
MESHES: dict[str, tuple[Asked, str, Asked]] = {
    # The action, its options and the state of the mesh; the advice; the same after it was followed.
    "recover a mesh that is well": (
        ("recover", RotationOptions(), HEALTHY),
        "Use rotate_anchor or rotate_issuer without recover",
        ("rotate", RotationOptions(), HEALTHY),
    ),
    "recover without leave": (
        ("recover", RotationOptions(), EXPIRED),
        "Turn accept_downtime on",
        ("recover", ACCEPTED, EXPIRED),
    ),
    "rotate what has expired": (
        ("rotate", RotationOptions(), EXPIRED),
        "Run it again with recover and accept_downtime",
        ("recover", ACCEPTED, EXPIRED),
    ),
    "a mesh that is not well: fixed": (
        ("rotate", RotationOptions(), UNHEALTHY),
        "Fix the problems named, or turn allow_unhealthy on",
        ("rotate", RotationOptions(), HEALTHY),
    ),
    "a mesh that is not well: accepted": (
        ("rotate", RotationOptions(), UNHEALTHY),
        "or turn allow_unhealthy on",
        ("rotate", RotationOptions(allow_unhealthy=True), UNHEALTHY),
    ),
}


@follows_each(MESHES)
def test_advice_about_the_state_of_the_mesh(case: str) -> None:
    def ask(action: Action, options: RotationOptions, state: dict[str, Any]) -> None:
        refuse(CONFIG, options, action, **state)

    before, text, after = MESHES[case]
    assert text in advice(MeshError, lambda: ask(*before))
    ask(*after)


SETTLED = seen(OLD, (OLD,), pod(OLD))
FORGOTTEN = replace(seen(NEW, (OTHER,), pod(OLD)), issuer_anchor=None)
SLOW = RotationOptions(approvals=("spread",), approval_hours=24)
BROUGHT = NewAnchor(certificate="PEM", private_key_file=Path("key"))
Layout = tuple[RotationSnapshot, RotationOptions, NewAnchor, Action, bool]


def plain(
    snapshot: RotationSnapshot = SETTLED,
    options: RotationOptions | None = None,
    new: NewAnchor | None = None,
    action: Action = "rotate",
    *,
    expired: bool = False,
) -> Layout:
    return snapshot, options or RotationOptions(), new or NewAnchor(), action, expired


def often(every: timedelta) -> RotationSnapshot:
    return seen(OLD, (OLD,), pod(OLD), anchors_kept=kept(every, every))


LAYOUTS: dict[str, tuple[Layout, str, Layout]] = {
    "an anchor is provided: none": (plain(new=BROUGHT), "Provide none, or replace", plain()),
    "an anchor is provided: no Certificate": (
        plain(new=BROUGHT),
        "or replace that Certificate by a Secret of your own first",
        plain(replace(SETTLED, anchor=None), new=BROUGHT),
    ),
    "expired": (
        plain(expired=True),
        "let it renew Certificate/cert-manager/anchor, then "
        "Certificate/linkerd/linkerd-identity-issuer (cmctl renew)",
        plain(),
    ),
    "recover what has expired": (
        plain(action="recover", expired=True),
        "Fix cert-manager",
        plain(),
    ),
    "recover what is valid": (
        plain(action="recover"),
        "Run rotate_anchor without recover",
        plain(),
    ),
    "nothing remembers the anchor": (
        plain(FORGOTTEN),
        "Put its certificate into tls.crt of this Secret",
        plain(seen(NEW, (OLD,), pod(OLD))),
    ),
    "the issuer is renewed too soon: approvals": (
        plain(options=SLOW),
        "ask for approval before renew rather than bundle or spread",
        plain(options=RotationOptions(approvals=("renew",), approval_hours=24)),
    ),
    "the issuer is renewed too soon: duration": (
        plain(options=SLOW),
        "or raise the Certificate's duration",
        plain(seen(OLD, (OLD,), pod(OLD), renewal=kept(every=timedelta(days=9))), SLOW),
    ),
    "the anchor is renewed too soon": (
        plain(often(SPARE * 2)),
        "Raise its duration",
        plain(often(timedelta(days=90))),
    ),
}


@follows_each(LAYOUTS)
def test_advice_where_cert_manager_makes_the_anchor(case: str) -> None:
    def ask(
        snapshot: RotationSnapshot,
        options: RotationOptions,
        new: NewAnchor,
        action: Action,
        expired: bool,
    ) -> None:
        takes = spread_takes(snapshot, options)
        require_certificate_layout(snapshot, new, action, takes, expired=expired)

    before, text, after = LAYOUTS[case]
    said = advice(MeshError, lambda: ask(*before))
    assert text in said
    assert "with recover" not in said
    ask(*after)


@follows(
    "Set it to Always, then run again.",
    "Have a self-signed issuer create the anchor",
)
def test_advice_about_an_anchor_that_a_certificate_owns() -> None:
    def judge(policy: str | None, certificates: str) -> MeshError | None:
        secret = TlsSecret.of(tls_secret("a", "n", certificates, anchor().private_key, ""))
        key = {"privateKey": {"rotationPolicy": policy}} if policy else {}
        metadata = {"namespace": "n", "name": "a"}
        return _unfit({"metadata": metadata, "spec": {"secretName": "a", **key}}, secret)

    for policy in (None, "Never"):
        wrong = judge(policy, OLD.pem)
        assert wrong is not None
        assert wrong.remedy == "Set it to Always, then run again."
    wrong = judge("Always", OLD.pem + NEW.pem)
    assert wrong is not None
    assert wrong.remedy.startswith("Have a self-signed issuer create the anchor")
    assert judge("Always", OLD.pem) is None


@follows(
    "run rotate_anchor to begin a rotation.",
    "Provide none to resume it, or abort it first.",
    "Run abort until it finishes, then rotate again.",
)
def test_advice_about_a_rotation_that_has_begun() -> None:
    first, second = make().pem, make().pem
    origin, goal = (next(iter(fingerprints(pem, "a"))) for pem in (make().pem, first))
    forward = RotationRecord(goal, origin, join_bundle([first]), "spread", "2026-05-04")
    back = replace(forward, goal=origin)

    text = advice(InvalidInput, lambda: _decide_goal(None, None, "abort"))
    assert text == nothing_to_abort().remedy
    assert text.endswith("run rotate_anchor to begin a rotation.")
    assert _decide_goal(None, None, "rotate") is None

    text = advice(InvalidInput, lambda: _decide_goal(forward, second, "rotate"))
    assert text == "Provide none to resume it, or abort it first."
    assert _decide_goal(forward, None, "rotate") == goal
    assert _decide_goal(forward, None, "abort") == origin

    text = advice(InvalidInput, lambda: _decide_goal(back, second, "rotate"))
    assert text == "Run abort until it finishes, then rotate again."
    assert _decide_goal(back, None, "abort") == origin
    # After that there is no open record.
    assert _decide_goal(None, second, "rotate") in fingerprints(second, "a")


@follows(
    "Run rotate_anchor again, which continues to the new anchor",
)
def test_advice_where_there_is_no_way_back(tmp_path: Path) -> None:
    managed = MeshConfig.model_validate(
        {"issuer": "cert-manager", "trust_anchor": {"custody": "in-cluster"}}
    )
    nothing = cast("Cluster", None)  # Asked for self-signed issuers only.
    ring = KeyRing(FileKeyStore(tmp_path / "anchor.pem", PASSPHRASE))
    origin, goal = anchor(), anchor()
    text = advice(InvalidInput, lambda: require_way_back(Mesh(nothing, managed), ring, fp(origin)))
    assert "Run rotate_anchor again, which continues to the new anchor" in text
    record = RotationRecord(fp(goal), fp(origin), goal.certificate, "switch", "2026-05-04")
    assert _decide_goal(record, None, "rotate") == fp(goal)
    # Once the key is stored where it is looked for, going back works.
    ring.previous.replace(origin)
    require_way_back(Mesh(nothing, managed), ring, fp(origin))


@follows(
    "or name the place where it is kept (trust_anchor.secret_block or key_file).",
)
def test_advice_about_a_key_that_is_nowhere(tmp_path: Path) -> None:
    pair = anchor()
    store = FileKeyStore(tmp_path / "anchor.pem", PASSPHRASE)
    text = advice(InvalidInput, lambda: KeyRing(store).require(fp(pair)))
    assert text.startswith("Provide it (trust_anchor.certificate_file and private_key_file)")
    assert KeyRing(store, lambda: pair).require(fp(pair)) == pair
    assert "or name the place where it is kept" in text
    kept_at = FileKeyStore(tmp_path / "kept.pem", PASSPHRASE)
    kept_at.store_once(pair)
    assert KeyRing(kept_at).require(fp(pair)) == pair


@follows(
    "Give this cluster another place for its key",
)
def test_advice_about_another_clusters_key(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path / "anchor.pem", PASSPHRASE)
    store.store_once(replace(anchor(), cluster="theirs"))
    text = advice(InvalidInput, lambda: KeyRing(store).refuse_another_clusters(set(), "ours"))
    assert text.startswith("Give this cluster another place for its key")
    own = FileKeyStore(tmp_path / "own.pem", PASSPHRASE)
    KeyRing(own).refuse_another_clusters(set(), "ours")
    assert "or set trust_anchor.share_anchor" in text
    KeyRing(store, is_shared=True).refuse_another_clusters(set(), "ours")


def chart(version: str) -> Chart:
    return Chart("linkerd-control-plane", version, version, "", "mirror", Path(), {}, {})


@follows(
    "Set the mesh's version to what is installed",
    "Set namespaces.linkerd to where it is, or install the mesh with bootstrap.",
    "Change it there: these flows change only meshes that Helm installed.",
    "Change it there: it would undo what these flows write.",
)
def test_advice_about_the_control_planes_release() -> None:
    installed = Release("r", "linkerd", "linkerd-control-plane", "1", "1", 1, "deployed", NOW)
    bundle = TrustBundle("", None, "release", installed, "")
    flux = Owner("Flux", "Flux's HelmRelease/flux/linkerd", ReleaseRef("r", "linkerd"))

    def ask(of: TrustBundle, version: str = "1") -> None:
        require_installed(of, chart(version), CONFIG)

    text = advice(NotReady, lambda: ask(bundle, "2"))
    assert text.startswith("Set the mesh's version to what is installed")
    assert "or run upgrade first" in text
    ask(replace(bundle, release=replace(installed, chart_version="2")), "2")
    text = advice(NotReady, lambda: ask(replace(bundle, release=None)))
    assert text == "Set namespaces.linkerd to where it is, or install the mesh with bootstrap."
    text = advice(OwnershipConflict, lambda: ask(replace(bundle, driver=flux)))
    assert text.startswith("Change it there")
    text = advice(NotReady, lambda: ask(replace(bundle, release=None, driver=flux)))
    assert text.startswith("Change it there")
    ask(bundle)


@follows(
    "Renew the issuer there.",
    "Set the mesh's issuer to cert-manager",
)
def test_advice_about_an_issuer_that_somebody_keeps() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": {}}
    theirs = {**secret, "metadata": FLUX}
    assert advice(OwnershipConflict, lambda: require_writable(theirs, CONFIG)) == (
        "Renew the issuer there."
    )
    annotations = {"cert-manager.io/certificate-name": "issuer"}
    kept_there = {**secret, "metadata": {"name": "n", "annotations": annotations}}
    text = advice(OwnershipConflict, lambda: require_writable(kept_there, CONFIG))
    assert text.startswith("Set the mesh's issuer to cert-manager")
    # Once nothing manages it any more.
    require_writable({**secret, "metadata": {"name": "n"}}, CONFIG)


@follows(
    "Nothing was changed by this run.",
)
def test_advice_about_permissions() -> None:
    lacks = in_words([Permission("patch", "secrets")])
    assert advice(PreflightFailed, lambda: require(lacks)).endswith(
        "Nothing was changed by this run."
    )
    require("")


def test_a_webhook_that_no_chart_makes_is_named_with_who_renews_it() -> None:
    external = {"externalSecret": True}
    given = release(
        PLANE,
        proxyInjector=external,
        profileValidator=external,
        policyValidator=external,
    )
    there = [certificate("linkerd-proxy-injector-k8s-tls")]
    plan = plan_renewal({PLANE: given}, {PLANE: OURS}, there)
    assert (plan.releases, len(plan.left)) == ((), 3)
    # After `helm upgrade` without these values the chart makes the certificates again.
    again = plan_renewal({PLANE: release(PLANE)}, {PLANE: OURS})
    assert (len(again.releases), again.left) == (1, ())
