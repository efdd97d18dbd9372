"""Where a completed upgrade goes back to, from Helm's history alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prefect_linkerd.mesh.helm.records import Revision
from prefect_linkerd.mesh.planning.chart_split import CONTROL_PLANE, CRDS, OLD
from prefect_linkerd.mesh.planning.desired import BUNDLE_VALUE
from prefect_linkerd.mesh.upgrade.going_back import BackPlan, back_markdown, plan_back
from tests.support.advice import follows
from tests.support.certificates import NOW, make

ROOT = make("root.linkerd.cluster.local")
OTHER = make("other.linkerd.cluster.local")
VIZ = "linkerd-viz"


def revision(
    number: int,
    version: str,
    *,
    status: str = "superseded",
    chart: str = CONTROL_PLANE,
    pem: str = ROOT.pem,
    **values: Any,
) -> Revision:
    return Revision(
        name=chart,
        namespace="linkerd",
        number=number,
        status=status,
        chart=chart,
        chart_version=f"chart-of-{version}",
        app_version=version,
        values={BUNDLE_VALUE: pem, **values},
        defaults={},
        documents=(),
        content={},
    )


def planned(*accepted: str, trusted: str = ROOT.pem, **histories: list[Revision]) -> BackPlan:
    parts = {name.replace("_", "-"): each for name, each in histories.items()}
    return plan_back("north", parts, trusted, NOW, frozenset(accepted))


def test_each_release_goes_back_to_its_newest_revision_of_the_former_version() -> None:
    plan = planned(
        linkerd_control_plane=[
            revision(1, "stable-2.13.7"),
            revision(2, "stable-2.14.10", status="failed"),
            revision(3, "stable-2.13.7"),
            revision(4, "stable-2.14.10"),
            revision(5, "stable-2.14.10", status="deployed"),
        ],
        linkerd_viz=[
            revision(1, "stable-2.13.7", chart=VIZ),
            revision(2, "stable-2.14.10", chart=VIZ, status="deployed"),
        ],
        linkerd_jaeger=[revision(1, "stable-2.14.10", chart="linkerd-jaeger", status="deployed")],
        linkerd_crds=[revision(1, "stable-2.14.10", chart=CRDS, status="deployed")],
    )
    assert {step.part: step.revision for step in plan.steps} == {CONTROL_PLANE: 3, VIZ: 1}
    assert dict(plan.stays).keys() == {"linkerd-jaeger", CRDS}
    assert plan.findings == ()
    record = plan.record
    assert record is not None
    assert (record.source, record.target) == ("stable-2.13.7", "stable-2.14.10")
    assert (record.direction, record.was_completed) == ("back", True)
    page = back_markdown(plan)
    assert "back from stable-2.14.10 to stable-2.13.7" in page
    assert "| linkerd-jaeger | Helm keeps no revision of it at stable-2.13.7 |" in page


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ([revision(1, "stable-2.14.10", status="deployed")], "Helm keeps no revision"),
        # The failed upgrade was to a newer version.
        (
            [revision(1, "stable-2.14.10"), revision(2, "stable-2.13.7", status="deployed")],
            "Helm keeps no revision",
        ),
        (
            [
                revision(1, "stable-2.11.5", chart=OLD),
                revision(2, "stable-2.12.6", status="deployed"),
            ],
            "it was one chart",
        ),
        (
            [
                revision(1, "edge-25.4.4"),
                revision(2, "enterprise-2.17.1", status="deployed"),
            ],
            "no revision of linkerd-control-plane that enterprise-2.17.1 could have come from",
        ),
        ([], "no control plane is deployed"),
    ],
)
def test_where_there_is_no_way_back(history: list[Revision], why: str) -> None:
    plan = planned(linkerd_control_plane=history)
    (finding,) = plan.findings
    assert (finding.id, finding.severity, finding.acceptable) == ("no-way-back", "error", False)
    assert why in finding.message
    assert plan.record is None


def test_a_rotated_anchor_is_not_lost() -> None:
    history = [revision(1, "stable-2.13.7"), revision(2, "stable-2.14.10", status="deployed")]
    rotated = planned("trust-bundle", trusted=OTHER.pem, linkerd_control_plane=history)
    assert [(f.id, f.severity) for f in rotated.findings] == [("trust-bundle", "error")]
    both = [revision(1, "stable-2.13.7", pem=ROOT.pem + OTHER.pem), history[1]]
    assert planned(trusted=OTHER.pem, linkerd_control_plane=both).findings == ()


@follows("Set them again with bootstrap afterwards, if you need them.")
def test_values_that_go_back_are_named() -> None:
    former = revision(1, "stable-2.13.7", proxy={"logLevel": "warn"})
    now = revision(2, "stable-2.14.10", status="deployed", proxy={"logLevel": "debug"})
    (finding,) = planned(linkerd_control_plane=[former, now]).findings
    assert (finding.id, finding.severity) == ("values", "warning")
    assert "proxy.logLevel" in finding.message
    changed = replace(former, values=now.values)
    assert planned(linkerd_control_plane=[changed, now]).findings == ()


@follows("Fix the trust bundle first.")
def test_a_trust_bundle_that_cannot_be_read() -> None:
    history = [revision(1, "stable-2.13.7"), revision(2, "stable-2.14.10", status="deployed")]
    (finding,) = planned(trusted="no PEM", linkerd_control_plane=history).findings
    assert finding.id == "trust-bundle"
    assert planned(trusted=ROOT.pem, linkerd_control_plane=history).findings == ()
