"""The steps of an end-to-end run and every decision about them, as pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MARK = "prefect-linkerd-e2e"
"""The namespace, and its ConfigMap, that mark a mesh as a run's and record the run's progress."""

StepOutcome = Literal["done", "skipped", "failed"]

UNSCHEDULABLE = {"nodeSelector": {"prefect-linkerd.example/nowhere": "true"}}
"""Values that make new control plane pods unschedulable: an upgrade with them rolls back."""


@dataclass(frozen=True)
class Kill:
    """Kills a run with SIGKILL once the rotation's record names a phase."""

    phase: str


@dataclass(frozen=True)
class Run:
    """One command of `prefect-linkerd`.

    `settings` are merged over the mesh's configuration; `fails` marks a command that has to fail.
    """

    arguments: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    kill: Kill | None = None
    fails: bool = False


@dataclass(frozen=True)
class Step:
    """One step: what it demonstrates, and its commands in order.

    `special` names an action that is not a command: `install-managers`, `uninstall`. `traffic`
    marks a step that only sends requests, which simulated nodes do not carry.
    """

    name: str
    shows: str
    runs: tuple[Run, ...] = ()
    special: str = ""
    traffic: bool = False


@dataclass(frozen=True)
class Row:
    """How a step ended: a line of the table. `requests` is None if no request was counted."""

    step: str
    outcome: StepOutcome
    seconds: float
    requests: int | None = None
    failed: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Versions:
    """The version that is installed first, and the one that it is upgraded to."""

    first: str
    then: str


def steps(versions: Versions, gentle_minutes: float, image: str = "") -> tuple[Step, ...]:
    """Returns all steps in order.

    Args:
        gentle_minutes: how long certificates live in the gentle rotation.
        image: for the probe and the smoke tests; empty: their default.
    """
    asking = ("--probe-image", image) if image else ()
    first = {"version": versions.first}
    managed = {
        "version": versions.then,
        "issuer": "cert-manager",
        "cert_manager": {
            "install": False,
            "issuer_kind": "ClusterIssuer",
            "webhook_certificates": False,
        },
        "values": {"inline": {"identity": {"externalCA": True}}},
    }
    rotated = ("rotate-anchor", *asking)
    quick = (*rotated, "--pace", "quick")
    gentle = (*rotated, "--pace", "gentle", "--leaf-minutes", f"{gentle_minutes:g}")
    upgraded = ("upgrade", "--to", versions.then, *asking)
    tested = ("smoke-test", *(("--image", image) if image else ()))
    stuck = {**first, "timeout_seconds": 90, "values": {"inline": UNSCHEDULABLE}}
    return (
        Step("bootstrap", "a mesh is installed", (Run(("bootstrap",), first),)),
        Step("verify", "every check", (Run(("verify",), first),)),
        Step("smoke tests", "real requests", (Run(tested, first),), traffic=True),
        Step("rotation", "a new anchor, under load", (Run(quick, first),)),
        Step(
            "rotation, killed and resumed",
            "SIGKILL after the new issuer is signed, then the same command",
            (Run(quick, first, Kill("switch")), Run(quick, first)),
        ),
        Step(
            "rotation, aborted",
            "SIGKILL while the new anchor spreads, then back to the old one",
            (Run(quick, first, Kill("spread")), Run((*quick, "--action", "abort"), first)),
        ),
        Step("rotation, gentle", "one round of restarts", (Run(gentle, first),)),
        Step(
            "last round",
            "what still trusts the old anchor is restarted",
            (Run((*rotated, "--action", "drop"), first),),
        ),
        Step(
            "issuer rotation", "a new issuer, no restart", (Run(("rotate-issuer", *asking), first),)
        ),
        Step(
            "upgrade that goes back",
            "the new control plane is never placed",
            (Run(upgraded, stuck, fails=True), Run(("verify",), first)),
        ),
        Step(
            "upgrade",
            "the next version, under load",
            (Run(upgraded, first), Run(("verify",), {"version": versions.then})),
        ),
        Step("uninstall", "nothing of it is left", special="uninstall"),
        Step(
            "cert-manager and trust-manager",
            "the documented layout",
            (Run(("bootstrap",), managed), Run(("verify",), managed)),
            special="install-managers",
        ),
        Step(
            "rotation by cert-manager",
            "the anchor's Certificate is renewed",
            (Run(rotated, managed),),
        ),
        Step("uninstall at the end", "nothing is left", special="uninstall"),
    )


def next_step(story: Sequence[Step], rows: Iterable[Row]) -> Step | None:
    """Returns the first step that has neither succeeded nor been skipped."""
    over = {row.step for row in rows if row.outcome != "failed"}
    return next((step for step in story if step.name not in over), None)


def with_row(rows: Iterable[Row], row: Row) -> tuple[Row, ...]:
    """Returns the rows with a new one, which replaces the row of the step's previous attempt."""
    kept = [each for each in rows if each.step != row.step]
    return (*kept, row)


def refusal(foreign: Collection[str], *, is_marked: bool) -> str:
    """Returns why a cluster must not be used; empty if it may be.

    Args:
        foreign: the parts of a mesh that were found, in words.
        is_marked: whether an end-to-end run installed them.
    """
    if is_marked or not foreign:
        return ""
    return (
        "The cluster has a mesh, or parts of one, that no end-to-end run installed: "
        f"{', '.join(sorted(foreign)[:5])}. Use an empty cluster: this run installs, breaks and "
        "uninstalls a mesh, cert-manager, trust-manager and emojivoto."
    )


def skipped(step: Step, *, carries_traffic: bool) -> str:
    """Returns why a step is skipped; empty if it is not."""
    if step.traffic and not carries_traffic:
        return "no traffic (simulated nodes)"
    return ""


_REQUESTS = re.compile(r"\b([\d,]+) requests?, ([\d,]+) failed")


def requests_in(text: str) -> tuple[int, int] | None:
    """Returns the last count of requests in a command's output, and how many failed."""
    found = _REQUESTS.findall(text)
    if not found:
        return None
    asked, failed = (int(number.replace(",", "")) for number in found[-1])
    return asked, failed


def added(counts: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Returns the sum of several commands' counts; None if no command counted."""
    known = [each for each in counts if each is not None]
    return (sum(a for a, _ in known), sum(f for _, f in known)) if known else None


def verdict(run: Run, code: int) -> str:
    """Returns what is wrong with a command's exit code; empty if it is as expected.

    Args:
        code: its exit code; negative for a signal.
    """
    if run.kill is not None:
        # It may have finished before it could be killed.
        return "" if code in (-9, 0) else f"expected it to be killed, found exit code {code}"
    if run.fails:
        return "" if code != 0 else "expected it to fail and roll back, but it succeeded"
    return "" if code == 0 else f"exit code {code}"


def as_markdown(rows: Sequence[Row]) -> str:
    """Returns the table as Markdown, with its totals."""
    lines = ["| step | outcome | seconds | requests | failed |", "|---|---|---|---|---|"]
    for row in rows:
        note = f" ({row.note})" if row.note else ""
        lines.append(
            f"| {row.step} | {row.outcome}{note} | {row.seconds:.0f} | {_count(row.requests)} | "
            f"{_count(row.failed)} |"
        )
    total = added((r.requests, r.failed or 0) if r.requests is not None else None for r in rows)
    asked, failed = total or (None, None)
    seconds = sum(row.seconds for row in rows)
    lines.append(f"| all | | {seconds:.0f} | {_count(asked)} | {_count(failed)} |")
    return "\n".join(lines) + "\n"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps([asdict(row) for row in rows], indent=2) + "\n"


def from_json(text: str) -> tuple[Row, ...]:
    return tuple(Row(**row) for row in json.loads(text)) if text.strip() else ()
