"""Which phase comes next where cert-manager makes the anchor: pure decisions over snapshots."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest

from prefect_linkerd.mesh.errors import InvalidInput, NotReady
from prefect_linkerd.mesh.identity.certificate_anchor import (
    CertificateAnchor,
    CopySource,
    Renewals,
    issued_by,
    lacks,
    renewals,
)
from prefect_linkerd.mesh.pki.certificates import (
    CertificateInfo,
    create_trust_anchor,
    join_bundle,
    read_certificates,
)
from prefect_linkerd.mesh.restarts import DataPlane
from prefect_linkerd.mesh.rotation.leaves import IssuerLoad
from prefect_linkerd.mesh.rotation.options import NewAnchor, RotationOptions
from prefect_linkerd.mesh.rotation.phases import SPARE, is_issuer_due, next_phase, spread_takes
from prefect_linkerd.mesh.rotation.preconditions import require_certificate_layout
from prefect_linkerd.mesh.rotation.snapshot import RotationSnapshot, anchors_to_keep, resolve_goal
from prefect_linkerd.mesh.rotation.trust_bundle import TrustBundle
from prefect_linkerd.mesh.snapshot.mesh import Pod, pod_of
from tests.support.trust_manager import CURRENT

NOW = datetime(2026, 5, 4, tzinfo=UTC)
PERIOD = timedelta(hours=23)


@cache
def made(number: int) -> CertificateInfo:
    begun = NOW - timedelta(days=10 - number)
    pair = create_trust_anchor("cluster.local", timedelta(days=90), begun)
    return read_certificates(pair.certificate, str(number))[0]


OLD, NEW, THIRD, OTHER = (made(number) for number in range(4))


def pod(*anchors: CertificateInfo, started: datetime = NOW - timedelta(hours=1)) -> Pod:
    bundle = join_bundle([info.pem for info in anchors]) if anchors else ""
    variable = {"name": "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "value": bundle}
    name = "-".join(info.fingerprint[:4] for info in anchors) or "control-plane"
    metadata = {"namespace": "apps", "name": name, "uid": name}
    content: dict[str, Any] = {
        "metadata": metadata,
        "spec": {"containers": [{"name": "linkerd-proxy", "env": [variable] if bundle else []}]},
    }
    return replace(pod_of(content), started=started)


def kept(due: timedelta = PERIOD, every: timedelta = PERIOD, *, is_issuing: bool = False) -> Any:
    return Renewals("linkerd", "linkerd-identity-issuer", NOW + due, every, is_issuing)


def seen(
    current: CertificateInfo,
    copied: tuple[CertificateInfo, ...],
    *pods: Pod,
    trusted: tuple[CertificateInfo, ...] | None = None,
    issuer: CertificateInfo = OLD,
    goal: CertificateInfo | None = None,
    since: datetime | None = None,
    declared: str = "",
    fixed: frozenset[str] = frozenset(),
    renewal: Renewals | None = None,
    anchors_kept: Renewals | None = None,
) -> RotationSnapshot:
    """A mesh in this layout whose rotation started from OLD."""
    copy = CopySource("cert-manager", "copy", "tls.crt", "".join(i.pem for i in copied))
    found = (*dict.fromkeys((current, *copied)),) if trusted is None else trusted
    participants = {OLD.fingerprint, *([goal.fingerprint] if goal else [])}
    return RotationSnapshot(
        goal=goal.fingerprint if goal else "",
        bundle=TrustBundle(
            "".join(info.pem for info in found), None, "certificate", None, declared, fixed=fixed
        ),
        data_plane=DataPlane("linkerd", frozenset(), pods, {}, ()),
        issuer=OLD,
        issuer_anchor=issuer.fingerprint,
        load=IssuerLoad(since),
        signing_since=None,
        anchor=CertificateAnchor(
            secret=CURRENT,
            current=current,
            previous=copy,
            fixed=fixed,
            has_others=False,
            anchor=anchors_kept or Renewals("cert-manager", "anchor", None, None, False),
            issuer=renewal or kept(),
            known="",
            read_at=NOW,
        ),
        origin=OLD.fingerprint,
        participants=frozenset(participants),
        pool=join_bundle([info.pem for info in (OLD, NEW, THIRD, OTHER)]),
    )


LATER = NOW + timedelta(hours=1)
PHASES: dict[str, tuple[RotationSnapshot, str]] = {
    "the copy is of another anchor": (seen(OLD, (OTHER,), pod(OLD)), "prepare"),
    "there is no copy": (seen(OLD, (), pod(OLD)), "prepare"),
    "trust-manager has not written": (seen(OLD, (OLD,), pod(OLD), trusted=(OTHER,)), "prepare"),
    "the issuer is due soon": (
        seen(OLD, (OLD,), pod(OLD), renewal=kept(SPARE - timedelta(seconds=1))),
        "prepare",
    ),
    "the issuer is just renewed": (
        seen(OLD, (OLD,), pod(OLD), renewal=kept(is_issuing=True)),
        "prepare",
    ),
    "all is prepared": (seen(OLD, (OLD,), pod(OLD)), "renew"),
    "aborted before that": (seen(OLD, (OLD,), pod(OLD), goal=OLD), "done"),
    "trust-manager is behind": (seen(NEW, (OLD,), pod(OLD), trusted=(OLD,), goal=NEW), "bundle"),
    "the old one was not copied": (seen(NEW, (OTHER,), pod(OLD), goal=NEW), "bundle"),
    "a proxy trusts the old one alone": (
        seen(NEW, (OLD,), pod(OLD), pod(OLD, NEW), goal=NEW),
        "spread",
    ),
    "the issuer was renewed too early": (
        seen(NEW, (OLD,), pod(OLD), pod(OLD, NEW), goal=NEW, issuer=NEW),
        "spread",
    ),
    "all trust both": (seen(NEW, (OLD,), pod(OLD, NEW), goal=NEW), "switch"),
    "nobody has a new leaf": (
        seen(NEW, (OLD,), pod(OLD, NEW), goal=NEW, issuer=NEW, since=NOW),
        "switch",
    ),
    "all have new leaves": (
        seen(NEW, (OLD,), pod(OLD, NEW, started=LATER), goal=NEW, issuer=NEW, since=NOW),
        "drop",
    ),
    # Nothing needs the old one, so it is not restored.
    "the copy is of the new one": (
        seen(NEW, (NEW,), pod(OLD, NEW, started=LATER), goal=NEW, issuer=NEW, since=NOW),
        "drop",
    ),
    "all trust the new one": (
        seen(NEW, (NEW,), pod(NEW, started=LATER), goal=NEW, issuer=NEW, since=NOW),
        "done",
    ),
    "another source of the Bundle stays": (
        seen(
            NEW,
            (NEW,),
            pod(NEW, OTHER, started=LATER),
            trusted=(NEW, OTHER),
            fixed=frozenset({OTHER.fingerprint}),
            goal=NEW,
            issuer=NEW,
            since=NOW,
        ),
        "done",
    ),
    "the release still says the old one": (
        seen(
            NEW,
            (NEW,),
            pod(NEW, started=LATER),
            goal=NEW,
            issuer=NEW,
            since=NOW,
            declared=OLD.pem,
        ),
        "drop",
    ),
}


@pytest.mark.parametrize("case", PHASES)
def test_the_next_phase_is_the_first_that_is_not_proven(case: str) -> None:
    snapshot, phase = PHASES[case]
    assert next_phase(snapshot) == phase


@pytest.mark.parametrize(
    ("goal", "current", "resolved"),
    [
        ("", OLD, ""),
        (OLD.fingerprint, OLD, OLD.fingerprint),
        ("", NEW, NEW.fingerprint),
        # An abort that comes too late, then an anchor that was renewed twice.
        (OLD.fingerprint, NEW, NEW.fingerprint),
        (NEW.fingerprint, THIRD, THIRD.fingerprint),
    ],
    # Fingerprints differ between processes, which must all give the tests the same ids.
    ids=["not renewed", "begun", "renewed", "too late to abort", "renewed twice"],
)
def test_the_goal_is_what_cert_manager_signs_with(
    goal: str, current: CertificateInfo, resolved: str
) -> None:
    assert resolve_goal(goal, OLD.fingerprint, current.fingerprint) == resolved


def test_the_issuer_must_not_be_due_while_approvals_and_restarts_go_on() -> None:
    snapshot = seen(OLD, (OLD,), pod(OLD))
    quick = spread_takes(snapshot, RotationOptions())
    assert not is_issuer_due(snapshot, quick)
    asked = RotationOptions(approvals=("spread",), approval_hours=22.9)
    assert spread_takes(snapshot, asked) == quick + timedelta(hours=22.9)
    assert is_issuer_due(snapshot, spread_takes(snapshot, asked))
    # Before anything is renewed, an approval may take as long as it likes.
    assert spread_takes(snapshot, RotationOptions(approvals=("renew", "drop"))) == quick


def require(snapshot: RotationSnapshot, **options: Any) -> None:
    takes = spread_takes(snapshot, RotationOptions(**options))
    require_certificate_layout(snapshot, NewAnchor(), "rotate", takes, expired=False)


def test_a_rotation_that_takes_longer_than_the_issuers_period_is_refused() -> None:
    snapshot = replace(seen(OLD, (OLD,), pod(OLD)), issuer_anchor=OLD.fingerprint)
    require(snapshot)
    with pytest.raises(InvalidInput, match="cert-manager would sign with the new anchor before"):
        require(snapshot, approvals=("spread",), approval_hours=24)
    short = Renewals("cert-manager", "anchor", NOW + SPARE, SPARE * 2, False)
    with pytest.raises(InvalidInput, match="for the whole rotation"):
        require(seen(OLD, (OLD,), pod(OLD), anchors_kept=short))
    # A rotation in progress is finished, however long it takes.
    require(seen(NEW, (OLD,), pod(OLD), goal=NEW), approvals=("spread",), approval_hours=24)


def test_an_anchor_that_nothing_remembers_is_said() -> None:
    with pytest.raises(NotReady, match=r"Put its certificate into tls\.crt of this Secret"):
        require(replace(seen(NEW, (OTHER,), pod(OLD)), issuer_anchor=None))


@pytest.mark.parametrize(
    ("snapshot", "wanted"),
    [
        # The copy was never made: only the issuer and the proxies show the old one.
        (seen(NEW, (OTHER,), pod(OLD), trusted=(NEW,)), {OLD}),
        # The new one signed the issuer too, so only proxies that lack it show the old one.
        (seen(NEW, (), pod(OLD), pod(NEW), trusted=(NEW,), issuer=NEW), {OLD}),
        # A proxy's certificate need not be of the other anchor that it trusts beside the current.
        (seen(NEW, (), pod(THIRD, NEW), trusted=(NEW,), issuer=NEW), set[CertificateInfo]()),
    ],
)
def test_what_proxies_may_have_certificates_of_is_kept(
    snapshot: RotationSnapshot, wanted: set[CertificateInfo]
) -> None:
    assert set(anchors_to_keep(snapshot)) == wanted


@pytest.mark.parametrize(
    ("snapshot", "is_settled"),
    [
        (seen(NEW, (NEW,), pod(NEW), issuer=NEW), True),
        (seen(NEW, (NEW,), pod(OLD, NEW), issuer=NEW), True),
        (seen(NEW, (OLD,), pod(NEW), issuer=NEW), False),
        (seen(NEW, (NEW,), pod(NEW), issuer=OLD), False),
        (seen(NEW, (NEW,), pod(NEW), pod(OLD), issuer=NEW), False),
    ],
)
def test_a_rotation_that_somebody_began_is_known(
    snapshot: RotationSnapshot, is_settled: bool
) -> None:
    assert snapshot.is_settled_on_current is is_settled


def test_the_control_planes_proxies_are_judged_by_when_they_started() -> None:
    assert lacks(NEW, "", NEW.not_before - timedelta(seconds=1))
    assert not lacks(NEW, "", NEW.not_before)
    assert not lacks(NEW, "", None)


def test_a_certificates_status_says_which_anchor_it_has_and_when_it_is_renewed() -> None:
    status = {
        "notBefore": NEW.not_before.isoformat(),
        "notAfter": NEW.not_after.isoformat(),
        "renewalTime": (NEW.not_before + PERIOD).isoformat(),
        "conditions": [{"type": "Issuing", "status": "True"}],
    }
    certificate = {"metadata": {"namespace": "n", "name": "c"}, "status": status}
    assert issued_by(certificate, join_bundle([OLD.pem, NEW.pem])) == NEW
    assert issued_by(certificate, OLD.pem) is None
    assert issued_by(certificate, "") is None
    found = renewals(certificate)
    assert (found.due, found.every, found.is_issuing) == (NEW.not_before + PERIOD, PERIOD, True)
    assert renewals({"metadata": {"namespace": "n", "name": "c"}}).due is None
