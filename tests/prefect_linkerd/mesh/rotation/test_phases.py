"""Which phase comes next, as a property: whatever happens, proxies can verify each other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.pki.certificates import (
    create_trust_anchor,
    fingerprints,
    join_bundle,
    read_certificates,
)
from prefect_linkerd.mesh.restarts import DataPlane
from prefect_linkerd.mesh.rotation.leaves import IssuerLoad
from prefect_linkerd.mesh.rotation.phases import (
    PHASES,
    is_recovered,
    needs_restart,
    next_phase,
    phases_of,
    recovery_phase,
)
from prefect_linkerd.mesh.rotation.snapshot import RotationSnapshot
from prefect_linkerd.mesh.rotation.trust_bundle import TrustBundle, only, with_anchor
from prefect_linkerd.mesh.snapshot.mesh import Pod, pod_of

T0 = datetime(2026, 5, 4, tzinfo=UTC)


@cache
def anchors() -> tuple[str, str]:
    made = [create_trust_anchor("cluster.local", timedelta(days=9), T0) for _ in range(2)]
    return made[0].certificate, made[1].certificate


@cache
def in_bundle(bundle: str) -> frozenset[str]:
    return fingerprints(bundle, "bundle")


@cache
def fp(pem: str) -> str:
    return next(iter(fingerprints(pem, "anchor")))


class Model:
    """A mesh's identity; time advances by one with every event."""

    def __init__(self, *, is_gentle: bool = False) -> None:
        self.is_gentle = is_gentle
        self.is_shortened = False
        self.old, self.new = anchors()
        self.goal = self.new
        self.bundle = self.declared = join_bundle([self.old])
        self.issuer = fp(self.old)
        self.loaded = 0
        self.signing = fp(self.old)
        self.now = 0
        self.pods: dict[str, tuple[str, str, int, int]] = {}
        for _ in range(4):
            self.add()

    def tick(self) -> int:
        self.now += 1
        return self.now

    def add(self) -> None:
        """A pod starts with the current bundle and a leaf from the signing issuer."""
        at = self.tick()
        self.pods[f"pod-{at}"] = (self.bundle, self.signing, at, at)

    def renew(self, number: int) -> None:
        """A proxy renews its certificate on its own, as each does from time to time."""
        name = sorted(self.pods)[number % len(self.pods)]
        bundle, _, at, _ = self.pods[name]
        self.pods[name] = (bundle, self.signing, at, self.tick())

    def remove(self, number: int) -> None:
        if len(self.pods) > 1:
            del self.pods[sorted(self.pods)[number % len(self.pods)]]

    def restart(self, name: str) -> None:
        del self.pods[name]
        self.add()

    def snapshot(self) -> RotationSnapshot:
        release = Release("r", "linkerd", "c", "1", "1", 1, "deployed", T0)
        goal = fp(self.goal)
        since = self.time(self.loaded) if self.signing == self.issuer else None
        return RotationSnapshot(
            goal=goal,
            bundle=TrustBundle(self.bundle, None, "release", release, self.declared),
            data_plane=DataPlane(
                "linkerd", frozenset(), tuple(self.pod(name) for name in self.pods), {}, ()
            ),
            issuer=read_certificates(self.old, "issuer")[0],
            issuer_anchor=self.issuer,
            load=IssuerLoad(since),
            signing_since=None,
            issued={name: self.time(pod[3]) for name, pod in self.pods.items()},
            is_gentle=self.is_gentle,
            is_shortened=self.is_shortened,
        )

    def time(self, moment: int) -> datetime:
        return T0 + timedelta(seconds=moment)

    def pod(self, name: str) -> Pod:
        bundle, _, at, _ = self.pods[name]
        variable = {"name": "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "value": bundle}
        made = pod_of(
            {
                "metadata": {"namespace": "apps", "name": name, "uid": name},
                "spec": {"containers": [{"name": "linkerd-proxy", "env": [variable]}]},
            }
        )
        return replace(made, started=self.time(at))

    def step(self, restarts: int) -> str:
        """Does a part of the next phase: one write, or some of its restarts."""
        snapshot = self.snapshot()
        phase = next_phase(snapshot)
        if phase == "bundle":
            self.bundle = self.declared = with_anchor(self.bundle, self.goal)
            self.is_shortened = self.is_gentle
        elif phase == "spread":
            self._restart_some(snapshot, "spread", restarts)
        elif phase == "switch":
            if self.issuer != fp(self.goal):
                self.issuer = fp(self.goal)
            elif self.signing != self.issuer:
                self.signing = self.issuer
                self.loaded = self.tick()
            elif self.is_gentle:
                for _ in range(restarts):
                    # The oldest certificate first, so that no proxy is left out forever.
                    oldest = min(self.pods, key=lambda name: self.pods[name][3])
                    self.renew(sorted(self.pods).index(oldest))
            else:
                self._restart_some(snapshot, "switch", restarts)
        elif phase == "drop":
            if not snapshot.bundle.is_only(snapshot.goal) or self.is_shortened:
                self.bundle = self.declared = only(join_bundle([self.old, self.new]), snapshot.goal)
                self.is_shortened = False
            else:
                self._restart_some(snapshot, "drop", restarts)
        self.tick()
        return phase

    def _restart_some(self, snapshot: RotationSnapshot, phase: str, count: int) -> None:
        needs = needs_restart(snapshot, phase)  # type: ignore[arg-type]
        due = [pod.name for pod in snapshot.data_plane.pods if needs(pod)]
        assert due
        for name in due[:count]:
            self.restart(name)

    def check(self) -> None:
        for _, leaf, _, _ in self.pods.values():
            for bundle, _, _, _ in self.pods.values():
                assert leaf in in_bundle(bundle)


happenings = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(1, 3)),
        st.tuples(st.just("add"), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, 9)),
        st.tuples(st.just("renew"), st.integers(0, 9)),
        st.tuples(st.just("turn"), st.just(0)),
        st.tuples(st.just("pace"), st.just(0)),
    ),
    max_size=60,
)


@given(happenings, st.booleans())
@settings(deadline=None, max_examples=100)
def test_whatever_happens_proxies_verify_each_other_and_it_comes_to_its_end(
    events: list[tuple[str, int]],
    is_gentle: bool,
) -> None:
    model = Model(is_gentle=is_gentle)
    for event, number in events:
        if event == "step":
            model.step(number)
        elif event == "add":
            model.add()
        elif event == "remove":
            model.remove(number)
        elif event == "renew":
            model.renew(number)
        elif event == "pace":
            model.is_gentle = not model.is_gentle
        else:
            # Aborted, or the abort reversed.
            model.goal = model.old if model.goal == model.new else model.new
        model.check()
    for _ in range(60):
        if model.step(9) == "done":
            break
        model.check()
    goal = fp(model.goal)
    assert next_phase(model.snapshot()) == "done"
    assert not model.is_shortened
    for bundle, leaf, _, _ in model.pods.values():
        assert leaf == goal
        # At the gentle pace proxies forget the old anchor when they restart.
        assert goal in in_bundle(bundle) if model.is_gentle else in_bundle(bundle) == {goal}


def test_the_phases_are_in_their_order_and_each_says_all_of_itself() -> None:
    assert [phase.name for phase in PHASES] == [
        "prepare",
        "bundle",
        "spread",
        "switch",
        "drop",
        "done",
    ]
    for phase in PHASES:
        assert all((phase.before, phase.does, phase.proof, phase.back))


def test_a_recovery_signs_first_then_trusts_then_restarts() -> None:
    model = Model()
    assert recovery_phase(model.snapshot()) == "switch"
    model.issuer = fp(model.new)
    assert recovery_phase(model.snapshot()) == "bundle"
    model.bundle = model.declared = join_bundle([model.new])
    model.signing, model.loaded = model.issuer, model.tick()
    snapshot = model.snapshot()
    assert recovery_phase(snapshot) == "spread"
    assert not any(map(is_recovered(snapshot), snapshot.data_plane.pods))
    model.tick()
    for name in list(model.pods):
        model.restart(name)
    assert recovery_phase(model.snapshot()) == "done"


def test_a_bundle_of_which_the_release_knows_nothing_is_not_done() -> None:
    model = Model()
    model.bundle = with_anchor(model.bundle, model.new)
    assert next_phase(model.snapshot()) == "bundle"


def test_the_gentle_pace_ends_with_one_round_of_restarts_and_the_lifetime_put_back() -> None:
    model = Model(is_gentle=True)
    started = set(model.pods)
    phases: list[str] = []
    while not phases or phases[-1] != "done":
        phases.append(model.step(9))
        model.check()
    assert list(dict.fromkeys(phases)) == ["bundle", "spread", "switch", "drop", "done"]
    assert len(model.pods) == len(started)
    assert not started & set(model.pods)
    assert all(len(in_bundle(pod[0])) == 2 for pod in model.pods.values())
    # A forced last round still has this to do.
    model.is_gentle = False
    assert next_phase(model.snapshot()) == "drop"


def test_the_gentle_phases_say_what_is_different() -> None:
    snapshot = Model(is_gentle=True).snapshot()
    words = {phase.name: phase for phase in phases_of(snapshot)}
    assert [phase.name for phase in PHASES] == list(words)
    assert "shortens the lifetime" in words["bundle"].does
    assert "restart" not in words["drop"].proof
