"""Which steps a bootstrap has, and which of them run side by side."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_linkerd.mesh.bootstrap.run import Stage, stages
from prefect_linkerd.mesh.config.model import MeshConfig

NOTHING_ON_TOP = {
    "viz": {"enabled": False},
    "traefik": {"enabled": False},
    "emojivoto": {"enabled": False},
}
CERT_MANAGER = {"issuer": "cert-manager", "trust_anchor": {"custody": "in-cluster"}}
DEMO = {"profile": "demo"}


def of(version: str, **more: Any) -> tuple[Stage, ...]:
    return stages(MeshConfig.model_validate({"version": version, **more}))


def test_the_control_plane_alone() -> None:
    assert of("edge-26.8.3", **NOTHING_ON_TOP) == (
        ("namespaces",),
        ("trust anchor",),
        ("linkerd-crds", "issuer"),
        ("linkerd-control-plane",),
    )


def test_the_one_chart_of_old_versions_has_no_step_for_crds() -> None:
    assert of("stable-2.11.5", **NOTHING_ON_TOP)[2:] == (("issuer",), ("linkerd2",))


def test_cert_manager_comes_up_beside_the_crds_and_before_its_issuer() -> None:
    assert of("stable-2.14.10", **CERT_MANAGER, **NOTHING_ON_TOP)[2:4] == (
        ("linkerd-crds", "cert-manager"),
        ("issuer",),
    )


def test_what_is_on_top_comes_up_side_by_side_and_routes_follow_their_traefik() -> None:
    assert of("stable-2.14.10", **DEMO, jaeger={"enabled": True})[4:] == (
        ("linkerd-viz", "linkerd-jaeger", "emojivoto", "traefik"),
        ("ingress",),
    )


@pytest.mark.parametrize("more", [{}, DEMO, CERT_MANAGER | DEMO, NOTHING_ON_TOP])
@pytest.mark.parametrize("version", ["stable-2.11.5", "stable-2.14.10", "edge-26.8.3"])
def test_every_step_is_done_once(version: str, more: dict[str, Any]) -> None:
    steps = [step for stage in of(version, **more) for step in stage]
    assert len(steps) == len(set(steps))
