"""The rotation of a mesh's root of trust: its phases, and which one comes next.

The phases are data. Which one is next is a pure function of what is on the cluster, never of what
an earlier run wrote down, so that a run may die anywhere and any other may resume. To go back is
the same rotation with the old anchor as its goal: from every phase the way back has the same
phases in the same order, and does only those that are needed.

The order keeps one invariant: any two running proxies can verify each other. An anchor signs
nothing before every proxy trusts it (`spread` before `switch`), and is trusted until no proxy has a
certificate of it (`switch` before `drop`). At the gentle pace (`pace`) proxies may trust an anchor
for longer than the bundle has it, never for less long.

Where a Certificate owns the anchor (`certificate_anchor`), cert-manager makes the new one, and
from that moment signs with it whenever it renews the issuer, which it does by its own schedule
(`duration` less `renewBefore`: every 23 hours in the documentation). Proxies that do not trust the
new anchor yet must not meet a leaf of it before `spread` is proven. What keeps that:

1. The old anchor is copied first (`prepare`), so that the bundle never lacks it.
2. The new anchor is made (`renew`) only while the issuer is not due for longer than `spread` takes:
   twice what the plan of restarts says, ten minutes, and the time for approvals in between. Where
   less is left, the issuer is renewed first, while the old anchor still signs: that starts its
   clock again. Where even a whole period is too short, the rotation is refused.
3. `spread` restarts identity last. It reads its trust roots when it starts, and skips an issuer
   that they do not verify: even if the issuer is renewed early, no leaf of the new anchor is made
   before identity restarts, and all others trust the new anchor by then. This also guards a
   rotation that cert-manager began by itself, unless identity restarts for another reason.

Whatever was renewed by cert-manager cannot be taken back: nobody else may write the anchor's
Secret, and cert-manager answers a foreign key in it by a third anchor. So an abort goes back until
`renew` has asked for the new anchor, and forward from then on.

Sources: https://linkerd.io/2/tasks/manually-rotating-control-plane-tls-credentials/,
https://linkerd.io/2/tasks/automatically-rotating-control-plane-tls-credentials/, and linkerd2
`controller/cmd/identity/main.go` (trust anchors) and `pkg/identity` (loadCredentials).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from prefect_linkerd.mesh.pki.certificates import read_certificates
from prefect_linkerd.mesh.restarts import Needs, plan_restarts
from prefect_linkerd.mesh.rotation.options import RotationOptions
from prefect_linkerd.mesh.rotation.snapshot import RotationSnapshot
from prefect_linkerd.mesh.snapshot.mesh import Pod

PhaseName = Literal["prepare", "renew", "bundle", "spread", "switch", "drop", "done"]


@dataclass(frozen=True)
class Phase:
    """One phase of a rotation, in words: for plans, approvals and the story."""

    name: PhaseName
    before: str
    does: str
    proof: str
    back: str


PHASES: tuple[Phase, ...] = (
    Phase(
        "prepare",
        before="The mesh is healthy, its issuer chains to its trust bundle, and its release is of "
        "the configured version.",
        does="Creates the new trust anchor, or uses the provided one, and keeps its key beside the "
        "old one's.",
        proof="The new anchor is fit for this mesh and another one than it has.",
        back="Nothing uses the new anchor: its key is removed.",
    ),
    Phase(
        "bundle",
        before="The new anchor's key is kept.",
        does="Adds the new anchor to the trust bundle, through the control plane's Helm release.",
        proof="ConfigMap linkerd-identity-trust-roots and the release's values hold both anchors.",
        back="The new anchor is taken out of the bundle again.",
    ),
    Phase(
        "spread",
        before="The trust bundle holds both anchors.",
        does="Restarts the control plane, the extensions and every meshed workload that does not "
        "trust the new anchor yet.",
        proof="No running proxy lacks the new anchor, pod by pod.",
        back="The new anchor is taken out of the bundle, and what trusts it is restarted.",
    ),
    Phase(
        "switch",
        before="Every running proxy trusts both anchors.",
        does="Signs a new issuer by the new anchor, waits until the identity service has loaded "
        "it, and restarts what still has a certificate of the old one.",
        proof="Every identity pod signs by the new anchor, and every proxy's certificate was "
        "issued since.",
        back="The old anchor signs a new issuer, and what has a certificate of the new one is "
        "restarted.",
    ),
    Phase(
        "drop",
        before="No running proxy has a certificate that needs the old anchor.",
        does="Takes the old anchor out of the trust bundle and restarts what still trusts it.",
        proof="The bundle and every running proxy hold the new anchor alone.",
        back="The old anchor is added again: the same phases with the old one as the goal.",
    ),
    Phase(
        "done",
        before="Every running proxy trusts the new anchor alone and has a certificate of it.",
        does="Forgets the old anchor's key and verifies the mesh.",
        proof="The issuer chains to the only anchor, and every workload is rolled out.",
        back="Rotate again, to another anchor: the old one's key is gone.",
    ),
)


GENTLE: Mapping[PhaseName, Mapping[str, str]] = {
    "bundle": {
        "does": "Adds the new anchor to the trust bundle and shortens the lifetime of proxies' "
        "certificates, through the control plane's Helm release.",
        "back": "The new anchor is taken out of the bundle again, and the lifetime is put back.",
    },
    "switch": {
        "does": "Signs a new issuer by the new anchor, waits until the identity service has loaded "
        "it and until proxies have renewed, and restarts those that have not done so in time.",
        "back": "The old anchor signs a new issuer, and proxies renew again.",
    },
    "drop": {
        "does": "Takes the old anchor out of the trust bundle and puts the lifetime back. Proxies "
        "forget the old anchor when they restart.",
        "proof": "The bundle holds the new anchor alone, and every proxy trusts it.",
    },
    "done": {
        "before": "Every running proxy trusts the new anchor and has a certificate of it.",
    },
}
"""What is different at the gentle pace."""

NO_WAY_BACK = "There is no way back: cert-manager signs with the new anchor from now on."

CERTIFICATE_PHASES: tuple[Phase, ...] = (
    Phase(
        "prepare",
        before="The bundle has the Secret of the anchor's Certificate and a copy of the previous "
        "anchor's as sources.",
        does="Copies the anchor's Secret to the previous anchor's. Renews the issuer where it "
        "would be due before every proxy trusts a new anchor.",
        proof="The copy and the trust bundle have the current anchor, and the issuer is not due "
        "for longer than the restarts take.",
        back="Nothing has changed: the rotation ends.",
    ),
    Phase(
        "renew",
        before="The copy has the current anchor.",
        does="Asks cert-manager to renew the anchor's Certificate, as `cmctl renew` does.",
        proof="Its Secret has another anchor.",
        back=NO_WAY_BACK,
    ),
    Phase(
        "bundle",
        before="cert-manager has made the new anchor.",
        does="Waits until trust-manager has written both anchors. One that is missing, as it was "
        "not copied, is put into the previous anchor's Secret.",
        proof="ConfigMap linkerd-identity-trust-roots holds the new anchor and every one that "
        "proxies may have a certificate of.",
        back=NO_WAY_BACK,
    ),
    Phase(
        "spread",
        before="The trust bundle holds both anchors.",
        does="Restarts every meshed workload that does not trust the new anchor yet, identity "
        "last.",
        proof="No running proxy lacks the new anchor, pod by pod.",
        back=NO_WAY_BACK,
    ),
    Phase(
        "switch",
        before="Every running proxy trusts both anchors.",
        does="Asks cert-manager to renew the issuer's Certificate, waits until identity has loaded "
        "it, and restarts what still has a certificate of the old one.",
        proof="Every identity pod signs by the new anchor, and every proxy's certificate was "
        "issued since.",
        back=NO_WAY_BACK,
    ),
    Phase(
        "drop",
        before="No running proxy has a certificate that needs the old anchor.",
        does="Copies the new anchor's Secret to the previous anchor's, so that the bundle holds it "
        "alone, and restarts what still trusts the old one.",
        proof="The bundle and every running proxy hold the new anchor alone.",
        back=NO_WAY_BACK,
    ),
    Phase(
        "done",
        before="Every running proxy trusts the new anchor alone and has a certificate of it.",
        does="Verifies the mesh.",
        proof="The issuer chains to the only anchor, and every workload is rolled out.",
        back="Rotate again: cert-manager has no key of the old anchor.",
    ),
)
"""The phases where a Certificate owns the anchor."""

SPARE = timedelta(minutes=10)
"""What restarts may take beyond twice their plan."""


def phases_of(snapshot: RotationSnapshot) -> tuple[Phase, ...]:
    if snapshot.anchor is not None:
        return CERTIFICATE_PHASES
    if not snapshot.is_gentle:
        return PHASES
    return tuple(replace(each, **GENTLE.get(each.name, {})) for each in PHASES)


def spread_takes(snapshot: RotationSnapshot, options: RotationOptions) -> timedelta:
    """How long it may take from the new anchor until every proxy trusts it, approvals included."""
    plan = plan_restarts(snapshot.data_plane, lambda _: True, options.restarts)
    asked = len({"bundle", "spread"} & set(options.approvals))
    approvals = timedelta(hours=options.approval_hours) * asked
    return 2 * timedelta(seconds=plan.seconds(options.restarts)) + SPARE + approvals


def is_issuer_due(snapshot: RotationSnapshot, takes: timedelta) -> bool:
    """Whether cert-manager renews the issuer too soon for a new anchor to spread before."""
    if snapshot.anchor is None:
        return False
    issuer = snapshot.anchor.issuer
    is_near = issuer.due is not None and issuer.due - snapshot.anchor.read_at < takes
    return is_near or issuer.is_issuing


def is_prepared(snapshot: RotationSnapshot, takes: timedelta) -> bool:
    """Whether cert-manager may make a new anchor without harm."""
    if snapshot.anchor is None:
        return True
    current = snapshot.anchor.current.fingerprint
    is_copied = current in snapshot.anchor.copy.anchors and current in snapshot.bundle.anchors
    return is_copied and not is_issuer_due(snapshot, takes)


def _certificate_phase(snapshot: RotationSnapshot, takes: timedelta) -> PhaseName | None:
    """The phase of a Certificate's anchor that comes before those of every rotation."""
    if snapshot.anchor is None:
        return None
    goal, bundle = snapshot.goal, snapshot.bundle
    if not goal:
        return "renew" if is_prepared(snapshot, takes) else "prepare"
    if goal == snapshot.origin == snapshot.anchor.current.fingerprint:
        # Aborted, and there has been no other anchor.
        return "done"
    are_leaves_new = snapshot.loaded_since is not None and all(
        map(snapshot.has_goals_leaf, snapshot.data_plane.pods)
    )
    if not are_leaves_new and not snapshot.participants <= bundle.anchors:
        return "bundle"
    return None


def next_phase(snapshot: RotationSnapshot, takes: timedelta = SPARE) -> PhaseName:
    """The first phase whose proof does not hold.

    Args:
        takes: how long it takes until every proxy trusts a new anchor (see `spread_takes`).
    """
    if (early := _certificate_phase(snapshot, takes)) is not None:
        return early
    pods = snapshot.data_plane.pods
    bundle, goal = snapshot.bundle, snapshot.goal
    if not bundle.holds(goal):
        return "bundle"
    if not all(map(snapshot.trusts_goal, pods)):
        return "spread"
    if snapshot.loaded_since is None or not all(map(snapshot.has_goals_leaf, pods)):
        return "switch"
    if not bundle.is_only(goal) or snapshot.is_shortened:
        return "drop"
    if not snapshot.is_gentle and not all(map(snapshot.trusts_goal_alone, pods)):
        return "drop"
    return "done"


def needs_restart(snapshot: RotationSnapshot, phase: PhaseName) -> Needs:
    """Which pods a phase has to recreate."""
    proofs: dict[PhaseName, Callable[[Pod], bool]] = {
        "spread": snapshot.trusts_goal,
        "switch": snapshot.has_goals_leaf,
        "drop": snapshot.trusts_goal_alone,
    }
    holds = proofs[phase]
    return lambda pod: not holds(pod)


def unproven(snapshot: RotationSnapshot, phase: PhaseName) -> Iterable[Pod]:
    """The pods for which a phase's proof does not hold."""
    return filter(needs_restart(snapshot, phase), snapshot.data_plane.pods)


def is_expired(snapshot: RotationSnapshot, now: datetime) -> bool:
    """Whether the mesh's identity has ended already: no proxy can get a certificate any more."""
    if snapshot.issuer is not None and now >= snapshot.issuer.not_after:
        return True
    if snapshot.issuer_anchor is None or not snapshot.bundle.roots.strip():
        return False
    signing = [
        info
        for info in read_certificates(snapshot.bundle.roots, "trust bundle")
        if info.fingerprint == snapshot.issuer_anchor
    ]
    return any(now >= info.not_after for info in signing)


def recovery_phase(snapshot: RotationSnapshot) -> PhaseName:
    """The first phase of the recovery of an expired mesh whose proof does not hold.

    Nothing verifies anything any more, so the issuer comes first: identity does not start with one
    that has ended, and every proxy that starts needs it. Each workload is restarted once.
    """
    pods = snapshot.data_plane.pods
    if snapshot.issuer_anchor != snapshot.goal:
        return "switch"
    if not snapshot.bundle.is_only(snapshot.goal) or snapshot.is_shortened:
        return "bundle"
    if snapshot.loaded_since is None or not all(map(is_recovered(snapshot), pods)):
        return "spread"
    return "done"


def is_recovered(snapshot: RotationSnapshot) -> Callable[[Pod], bool]:
    return lambda pod: snapshot.trusts_goal_alone(pod) and snapshot.has_goals_leaf(pod)
