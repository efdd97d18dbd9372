"""New certificates for webhooks: which ones a chart makes, and what else that would change."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_linkerd.mesh.helm.installed import Part
from prefect_linkerd.mesh.helm.ownership import OURS, Owner
from prefect_linkerd.mesh.helm.records import Release, ReleaseRef
from prefect_linkerd.mesh.snapshot.webhooks import plan_renewal
from tests.support.certificates import NOW

EXTERNAL = {"externalSecret": True}
PLANE: Part = "linkerd-control-plane"


def release(chart: Part, namespace: str = "linkerd", **values: Any) -> Release:
    return Release(f"my-{chart}", namespace, chart, "1.0.0", "", 3, "deployed", NOW, values)


def certificate(secret: str) -> dict[str, Any]:
    metadata = {"name": f"{secret}-certificate", "namespace": "linkerd"}
    return {"metadata": metadata, "spec": {"secretName": secret}}


@pytest.mark.parametrize(
    ("part", "place", "secrets"),
    [
        (
            "linkerd2",
            "linkerd",
            [
                "linkerd/linkerd-proxy-injector-k8s-tls",
                "linkerd/linkerd-sp-validator-k8s-tls",
                "linkerd/linkerd-policy-validator-k8s-tls",
            ],
        ),
        ("linkerd-viz", "viz", ["viz/tap-k8s-tls", "viz/tap-injector-k8s-tls"]),
        ("linkerd-jaeger", "jaeger", ["jaeger/jaeger-injector-k8s-tls"]),
    ],
)
def test_a_chart_makes_each_certificate_that_is_not_given(
    part: Part, place: str, secrets: list[str]
) -> None:
    plan = plan_renewal({part: release(part, place)}, {part: OURS})
    assert [each.secrets for each in plan.releases] == [tuple(secrets)]
    assert plan.left == ()


def test_what_no_chart_makes_is_left_to_whoever_does() -> None:
    found = release(
        PLANE,
        proxyInjector={**EXTERNAL, "injectCaFrom": "linkerd/x"},
        profileValidator={"crtPEM": "PEM", "keyPEM": "PEM"},
        policyValidator=EXTERNAL,
    )
    kept = [certificate("linkerd-proxy-injector-k8s-tls")]
    plan = plan_renewal({PLANE: found}, {PLANE: OURS}, kept)
    assert plan.releases == ()
    injector, profiles, policies = plan.left
    assert "cert-manager renews it by Certificate linkerd-proxy-injector-k8s-tls-cert" in injector
    assert "profileValidator.crtPEM" in profiles
    assert "policyValidator.externalSecret is set: its owner" in policies
    assert plan.kept == (("linkerd", "linkerd-proxy-injector-k8s-tls-certificate"),)
    one = plan_renewal({PLANE: release(PLANE, proxyInjector=EXTERNAL)}, {PLANE: OURS}, kept)
    assert len(one.releases[0].secrets) == 2
    assert len(one.left) == 1


def test_a_release_that_something_reconciles_is_upgraded_there() -> None:
    flux = Owner("Flux", "Flux's HelmRelease/flux/linkerd", ReleaseRef("my-linkerd", "linkerd"))
    viz: Part = "linkerd-viz"
    plan = plan_renewal({PLANE: release(PLANE), viz: release(viz)}, {PLANE: flux, viz: OURS})
    assert [each.part for each in plan.releases] == [viz]
    assert "Flux's HelmRelease/flux/linkerd" in plan.left[0]
    cli = Owner("linkerd CLI", "the linkerd CLI")
    assert "not a Helm release: the linkerd CLI" in plan_renewal({}, {PLANE: cli}).left[0]
