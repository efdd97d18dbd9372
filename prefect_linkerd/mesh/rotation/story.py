"""Reports of a rotation: its plan before it starts, and its whole story once it is finished."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_linkerd.mesh.pki.certificates import CertificateInfo
from prefect_linkerd.mesh.probe.counts import ProbeOutcome
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.report.events import Notice
from prefect_linkerd.mesh.rotation.issuer import IssuerRotation
from prefect_linkerd.mesh.rotation.plan import RotationPlan
from prefect_linkerd.mesh.traffic.watch import BatchTraffic


def plan_markdown(mesh: str, plan: RotationPlan) -> str:
    """The plan of a rotation, as a page."""
    lines = [f"# Rotation of the trust anchor of {mesh}: plan", ""]
    lines += [f"- trusted now: {_named(info)}" for info in plan.trusted]
    lines += [f"- issuer: {_named(plan.issuer)}" if plan.issuer else "- issuer: none"]
    lines += [f"- new anchor: {_named(plan.goal)}" if plan.goal else "- new anchor: to be created"]
    lines += [f"- {warning}" for warning in plan.warnings]
    lines += [f"- next phase: {plan.phase}", f"- pace: {plan.pace}"]
    lines += [f"- about {plan.seconds / 60:.0f} minutes", ""]
    if plan.costs:
        lines += ["What each pace costs:", "", *(f"- {cost}" for cost in plan.costs), ""]
    if plan.expired:
        lines += ["**The mesh's identity has expired: only a recovery, with downtime, helps.**", ""]
    lines += ["| phase | before | does | proof | rollback |", "|---|---|---|---|---|"]
    lines += [f"| {p.name} | {p.before} | {p.does} | {p.proof} | {p.back} |" for p in plan.phases]
    for name, restarts in plan.restarts.items():
        lines += ["", f"## {name}: {restarts.restarts} restarts", ""]
        lines += [
            f"{number}. {batch.stage}: {', '.join('/'.join(w) for w in batch.workloads)}"
            for number, batch in enumerate(restarts.batches, 1)
        ]
    lines += _listed("To be done manually", [str(item) for item in plan.manual])
    lines += _listed("Unhealthy", plan.troubles)
    return "\n".join(lines) + "\n"


def story_markdown(
    mesh: str,
    record: RotationRecord,
    plan: RotationPlan,
    requests: ProbeOutcome,
    traffic: Sequence[BatchTraffic] = (),
) -> str:
    """A finished rotation, as a page: the state before and after, and everything in between.

    Args:
        requests: the probe's counts in the run that finished it.
        traffic: the workloads' requests around each batch that the last run restarted.
    """
    going = "back to the old anchor" if record.is_going_back else "to a new anchor"
    lines = [f"# Trust anchor of {mesh}: rotated {going}", ""]
    lines += ["| | before | after |", "|---|---|---|"]
    lines += [f"| trust anchor | `{record.origin}` | `{record.goal}` |"]
    before = plan.issuer.fingerprint if plan.issuer else "none"
    lines += [f"| issuer at the start of this run | `{before}` | see the Secret |", ""]
    lines += ["| when | phase | what |", "|---|---|---|"]
    lines += [f"| {c.at} | {c.phase} | {c.text} |" for c in record.story]
    lines += _listed("Requests", [f"{row.phase}, {row}" for row in traffic])
    for phase, workloads in record.restarted.items():
        lines += ["", f"## Restarted in {phase}: {len(workloads)}", ""]
        lines += [f"- {name}" for name in workloads]
    return "\n".join([*lines, *requests.markdown()]) + "\n"


def rotation_notice(mesh: str, record: RotationRecord, requests: ProbeOutcome) -> Notice:
    """`linkerd.anchor.rotated`, or `.restored` if the old anchor is the only one again."""
    return Notice(
        f"linkerd.anchor.{'restored' if record.is_going_back else 'rotated'}",
        mesh,
        {
            "from": record.origin,
            "to": record.goal,
            "begun": record.begun,
            "restarts": {phase: len(names) for phase, names in record.restarted.items()},
            "requests": requests.payload,
        },
    )


def issuer_markdown(mesh: str, done: IssuerRotation) -> str:
    """A new issuer, as a page."""
    before = _named(done.before) if done.before else "none"
    lines = [
        f"# Issuer of {mesh}: rotated",
        "",
        f"- before: {before}",
        f"- after: {_named(done.after)}",
        f"- identity signs with it since {done.since:%Y-%m-%d %H:%M:%S} UTC",
        f"- workloads restarted: {done.restarted}",
        *_listed("Requests", list(map(str, done.traffic))),
        *done.requests.markdown(),
    ]
    return "\n".join(lines) + "\n"


def issuer_notice(mesh: str, done: IssuerRotation) -> Notice:
    """`linkerd.issuer.rotated`."""
    return Notice(
        "linkerd.issuer.rotated",
        mesh,
        {
            "from": done.before.fingerprint if done.before else "",
            "to": done.after.fingerprint,
            "not_after": done.after.not_after.isoformat(),
            "restarts": done.restarted,
            "requests": done.requests.payload,
        },
    )


def _named(info: CertificateInfo) -> str:
    return f"{info.subject}, sha256 `{info.fingerprint}`, until {info.not_after:%Y-%m-%d}"


def _listed(title: str, items: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {item}" for item in items)] if items else []
