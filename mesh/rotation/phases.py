"""The rotation of a mesh's root of trust: its phases, and which one comes next.

The phases are data. Which one is next is a pure function of what is on the cluster, never of what
an earlier run wrote down, so that a run may die anywhere and any other may go on. To go back is
the same rotation with the old anchor as its goal: from every phase the way back has the same
phases in the same order, and does only those that are needed.

The order keeps one invariant: any two running proxies can verify each other. An anchor signs
nothing before every proxy trusts it (`spread` before `switch`), and is trusted until no proxy has a
certificate of it (`switch` before `drop`).
Source: https://linkerd.io/2/tasks/manually-rotating-control-plane-tls-credentials/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mesh.pki import read_certificates
from mesh.restarts import Needs
from mesh.rotation.snapshot import RotationSnapshot
from mesh.snapshot import Pod

PhaseName = Literal["prepare", "bundle", "spread", "switch", "drop", "done"]


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
        does="Makes the new trust anchor, or takes the brought one, and keeps its key beside the "
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


def next_phase(snapshot: RotationSnapshot) -> PhaseName:
    """The first phase whose proof does not hold."""
    pods = snapshot.data_plane.pods
    bundle, goal = snapshot.bundle, snapshot.goal
    if not bundle.holds(goal):
        return "bundle"
    if not all(map(snapshot.trusts_goal, pods)):
        return "spread"
    if snapshot.loaded_since is None or not all(map(snapshot.has_goals_leaf, pods)):
        return "switch"
    if not bundle.is_only(goal) or not all(map(snapshot.trusts_goal_alone, pods)):
        return "drop"
    return "done"


def needs_restart(snapshot: RotationSnapshot, phase: PhaseName) -> Needs:
    """Which pods a phase has to make anew."""
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
    if not snapshot.bundle.is_only(snapshot.goal):
        return "bundle"
    if snapshot.loaded_since is None or not all(map(is_recovered(snapshot), pods)):
        return "spread"
    return "done"


def is_recovered(snapshot: RotationSnapshot) -> Callable[[Pod], bool]:
    return lambda pod: snapshot.trusts_goal_alone(pod) and snapshot.has_goals_leaf(pod)
