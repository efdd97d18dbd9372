"""The rotation of a mesh's root of trust: its phases, and which one comes next.

The phases are data. The next one is a pure function of the state of the cluster, never of what an
earlier run recorded, so a run can be killed at any point and another can resume it. Rolling back is
the same rotation with the old anchor as its goal: from every phase it runs the same phases in the
same order, and only those that are needed.

The order maintains one invariant: any two running proxies can verify each other. An anchor signs
nothing before every proxy trusts it (`spread` before `switch`), and is trusted until no proxy has a
certificate under it (`switch` before `drop`). At the gentle pace (`pace`) proxies may trust an
anchor for longer than the bundle has it, never for less.

If a Certificate owns the anchor (`certificate_anchor`), cert-manager makes the new one. From then
on it signs with that whenever it renews the issuer, on its own schedule (`duration` less
`renewBefore`: every 23 hours in the documentation). Proxies that do not trust the new anchor yet
must not meet a leaf under it before `spread` is proven. Three rules ensure that:

1. The old anchor is copied first (`prepare`), so the bundle never lacks it.
2. The new anchor is made (`renew`) only if the issuer is not due for longer than `spread` takes:
   twice the planned time of the restarts, ten minutes, and the time for approvals in between. If
   less is left, the issuer is renewed first, while the old anchor still signs, which restarts its
   period. If even a whole period is too short, the rotation is refused.
3. `spread` restarts identity last. Identity reads its trust roots when it starts, and skips an
   issuer that they do not verify: even if the issuer is renewed early, no leaf under the new anchor
   is issued before identity restarts, and by then all other proxies trust the new anchor. This also
   guards a rotation that cert-manager started by itself, unless identity restarts for another
   reason.

A renewal by cert-manager cannot be undone: only cert-manager may write the anchor's Secret, and it
answers a foreign key in it with a third anchor. So an abort rolls back until `renew` has requested
the new anchor, and rolls forward from then on.

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
    """One phase of a rotation, described for plans, approvals and the story."""

    name: PhaseName
    before: str
    does: str
    proof: str
    back: str


PHASES: tuple[Phase, ...] = (
    Phase(
        "prepare",
        before="The mesh is healthy, its issuer chains to its trust bundle, and its release has "
        "the configured version.",
        does="Creates the new trust anchor, or uses the provided one, and stores its key beside "
        "the old one's.",
        proof="The new anchor is fit for this mesh and differs from the current one.",
        back="Nothing uses the new anchor yet: its key is removed.",
    ),
    Phase(
        "bundle",
        before="The new anchor's key is stored.",
        does="Adds the new anchor to the trust bundle, through the control plane's Helm release.",
        proof="ConfigMap linkerd-identity-trust-roots and the release's values hold both anchors.",
        back="The new anchor is removed from the bundle again.",
    ),
    Phase(
        "spread",
        before="The trust bundle holds both anchors.",
        does="Restarts the control plane, the extensions and every meshed workload that does not "
        "trust the new anchor yet.",
        proof="No running proxy lacks the new anchor, pod by pod.",
        back="The new anchor is removed from the bundle, and workloads that trust it are "
        "restarted.",
    ),
    Phase(
        "switch",
        before="Every running proxy trusts both anchors.",
        does="Signs a new issuer with the new anchor, waits until the identity service has loaded "
        "it, and restarts workloads whose certificates are under the old anchor.",
        proof="Every identity pod signs under the new anchor, and every proxy's certificate was "
        "issued since.",
        back="The old anchor signs a new issuer, and workloads whose certificates are under the "
        "new anchor are restarted.",
    ),
    Phase(
        "drop",
        before="No running proxy has a certificate that needs the old anchor.",
        does="Removes the old anchor from the trust bundle and restarts workloads that still trust "
        "it.",
        proof="The bundle and every running proxy hold only the new anchor.",
        back="The old anchor is added again: the same phases with the old one as the goal.",
    ),
    Phase(
        "done",
        before="Every running proxy trusts only the new anchor and has a certificate under it.",
        does="Deletes the old anchor's key and verifies the mesh.",
        proof="The issuer chains to the only anchor, and every workload is rolled out.",
        back="Rotate again, to another anchor: the old one's key has been deleted.",
    ),
)


GENTLE: Mapping[PhaseName, Mapping[str, str]] = {
    "bundle": {
        "does": "Adds the new anchor to the trust bundle and shortens the lifetime of proxies' "
        "certificates, through the control plane's Helm release.",
        "back": "The new anchor is removed from the bundle again, and the lifetime is restored.",
    },
    "switch": {
        "does": "Signs a new issuer with the new anchor, waits until the identity service has "
        "loaded it and proxies have renewed, and restarts those that have not renewed in time.",
        "back": "The old anchor signs a new issuer, and proxies renew again.",
    },
    "drop": {
        "does": "Removes the old anchor from the trust bundle and restores the lifetime. Proxies "
        "drop the old anchor when they restart.",
        "proof": "The bundle holds only the new anchor, and every proxy trusts it.",
    },
    "done": {
        "before": "Every running proxy trusts the new anchor and has a certificate under it.",
    },
}
"""How phases differ at the gentle pace."""

NO_WAY_BACK = "This cannot be rolled back: cert-manager signs with the new anchor from now on."

CERTIFICATE_PHASES: tuple[Phase, ...] = (
    Phase(
        "prepare",
        before="The bundle's sources are the Secret of the anchor's Certificate and the previous "
        "anchor's Secret.",
        does="Copies the anchor's Secret to the previous anchor's. Renews the issuer if it would "
        "be due before every proxy trusts a new anchor.",
        proof="The copy and the trust bundle have the current anchor, and the issuer is not due "
        "for longer than the restarts take.",
        back="No anchor has changed: the rotation ends.",
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
        does="Waits until trust-manager has written both anchors. An anchor that is missing "
        "because it was not copied is written to the previous anchor's Secret.",
        proof="ConfigMap linkerd-identity-trust-roots holds the new anchor and every anchor that "
        "proxies may have a certificate under.",
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
        "it, and restarts workloads whose certificates are under the old anchor.",
        proof="Every identity pod signs under the new anchor, and every proxy's certificate was "
        "issued since.",
        back=NO_WAY_BACK,
    ),
    Phase(
        "drop",
        before="No running proxy has a certificate that needs the old anchor.",
        does="Copies the new anchor's Secret to the previous anchor's, so the bundle holds only "
        "the new one, and restarts workloads that still trust the old one.",
        proof="The bundle and every running proxy hold only the new anchor.",
        back=NO_WAY_BACK,
    ),
    Phase(
        "done",
        before="Every running proxy trusts only the new anchor and has a certificate under it.",
        does="Verifies the mesh.",
        proof="The issuer chains to the only anchor, and every workload is rolled out.",
        back="Rotate again: cert-manager no longer has the old anchor's key.",
    ),
)
"""The phases if a Certificate owns the anchor."""

SPARE = timedelta(minutes=10)
"""How long restarts may take beyond twice the planned time."""


def phases_of(snapshot: RotationSnapshot) -> tuple[Phase, ...]:
    if snapshot.anchor is not None:
        return CERTIFICATE_PHASES
    if not snapshot.is_gentle:
        return PHASES
    return tuple(replace(each, **GENTLE.get(each.name, {})) for each in PHASES)


def spread_takes(snapshot: RotationSnapshot, options: RotationOptions) -> timedelta:
    """How long it may take until every proxy trusts a new anchor, approvals included."""
    plan = plan_restarts(snapshot.data_plane, lambda _: True, options.restarts)
    asked = len({"bundle", "spread"} & set(options.approvals))
    approvals = timedelta(hours=options.approval_hours) * asked
    return 2 * timedelta(seconds=plan.seconds(options.restarts)) + SPARE + approvals


def is_issuer_due(snapshot: RotationSnapshot, takes: timedelta) -> bool:
    """Whether cert-manager would renew the issuer before a new anchor can spread."""
    if snapshot.anchor is None:
        return False
    issuer = snapshot.anchor.issuer
    is_near = issuer.due is not None and issuer.due - snapshot.anchor.read_at < takes
    return is_near or issuer.is_issuing


def is_prepared(snapshot: RotationSnapshot, takes: timedelta) -> bool:
    """Whether cert-manager may safely make a new anchor."""
    if snapshot.anchor is None:
        return True
    current = snapshot.anchor.current.fingerprint
    is_copied = current in snapshot.anchor.copy.anchors and current in snapshot.bundle.anchors
    return is_copied and not is_issuer_due(snapshot, takes)


def _certificate_phase(snapshot: RotationSnapshot, takes: timedelta) -> PhaseName | None:
    """The next phase that only a Certificate's anchor has, or None if those are done."""
    if snapshot.anchor is None:
        return None
    goal, bundle = snapshot.goal, snapshot.bundle
    if not goal:
        return "renew" if is_prepared(snapshot, takes) else "prepare"
    if goal == snapshot.origin == snapshot.anchor.current.fingerprint:
        # Aborted before cert-manager made a new anchor.
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
    """Whether the issuer or its anchor has expired, so no proxy can get a certificate any more."""
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

    No proxy can verify another any more, so the issuer comes first: identity does not start with an
    expired one, and every proxy needs identity to start. Each workload is restarted once.
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
