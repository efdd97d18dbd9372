"""Extra values never override what keeps the mesh together, and are named where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.config.model import ExtraValues
from tests.support.extra_values import KEY, MINE, OTHER, PLANE, judged


@pytest.mark.real_charts
@pytest.mark.parametrize("version", PLANE)
@pytest.mark.parametrize(
    ("value", "key", "found"),
    [
        ({"identityTrustAnchorsPEM": OTHER}, "identityTrustAnchorsPEM", "sha256"),
        ({"identityTrustAnchorsPEM": MINE + OTHER}, "identityTrustAnchorsPEM", "sha256"),
        ({"identityTrustAnchorsPEM": "pasted"}, "identityTrustAnchorsPEM", "not yet there"),
        ({"identityTrustDomain": "other"}, "identityTrustDomain", "'other'"),
        ({"clusterDomain": "k8s.local"}, "clusterDomain", "'k8s.local'"),
        (
            {"identity": {"issuer": {"scheme": "linkerd.io/tls"}}},
            "identity.issuer.scheme",
            "'linkerd.io/tls'",
        ),
        (
            {"identity": {"issuer": {"tls": {"keyPEM": KEY}}}},
            "identity.issuer.tls.keyPEM",
            "a private key",
        ),
        ({"identity": None}, "identity", "not set"),
        ({"identity": {"issuer": "x"}}, "identity.issuer", "'x'"),
    ],
)
def test_a_value_that_differs_is_named_and_has_no_effect(
    charts_dir: Path, version: str, value: dict[str, Any], key: str, found: str
) -> None:
    unsafe, values = judged(charts_dir, version, PLANE[version], ExtraValues(inline=value))
    [said] = unsafe
    assert (said.key, said.place) == (key, f"values.inline.{key}")
    assert found in said.found
    assert said.remedy.startswith("Remove it there: ")
    assert values["identityTrustAnchorsPEM"] == MINE
    assert values["identityTrustDomain"] == "mesh.example"
    assert values["clusterDomain"] == "cluster.local"
    assert values["identity"]["issuer"]["scheme"] == "kubernetes.io/tls"
    assert "tls" not in values["identity"]["issuer"] or not values["identity"]["issuer"]["tls"]
    assert KEY.splitlines()[1] not in str(said)


@pytest.mark.real_charts
@pytest.mark.parametrize("version", PLANE)
def test_a_value_that_is_the_meshs_passes(charts_dir: Path, version: str) -> None:
    same = {
        # As users paste it: with blank lines around it.
        "identityTrustAnchorsPEM": f"\n{MINE.strip()}\n\n",
        "identityTrustDomain": "mesh.example",
        "clusterDomain": "cluster.local",
        # The charts' own defaults are not findings.
        "identity": {
            "externalCA": True,
            "issuer": {"scheme": "kubernetes.io/tls", "tls": {"crtPEM": "\n", "keyPEM": ""}},
        },
    }
    unsafe, values = judged(charts_dir, version, PLANE[version], ExtraValues(inline=same))
    assert unsafe == []
    assert values["identityTrustAnchorsPEM"] == MINE
    assert values["identity"]["externalCA"] is True


@pytest.mark.real_charts
def test_an_anchor_that_is_yet_to_be_made_is_no_pasted_one(charts_dir: Path) -> None:
    extra = ExtraValues(inline={"identityTrustAnchorsPEM": MINE})
    [said], _ = judged(charts_dir, "edge-26.8.3", PLANE["edge-26.8.3"], extra, "yet to be made")
    assert said.expected == "not yet there"


@pytest.mark.real_charts
@pytest.mark.parametrize(
    ("chart", "key"),
    [
        ("linkerd-viz", "clusterDomain"),
        ("linkerd-viz", "identityTrustDomain"),
        ("linkerd-viz", "linkerdNamespace"),
        ("linkerd-jaeger", "clusterDomain"),
    ],
)
def test_extensions_follow_the_mesh(charts_dir: Path, chart: str, key: str) -> None:
    extra = ExtraValues(inline={key: "else"})
    [said], values = judged(charts_dir, "stable-2.14.10", chart, extra)
    field = chart.removeprefix("linkerd-")
    assert said.place == f"{field}.values.inline.{key}"
    assert values[key] != "else"


@pytest.mark.real_charts
def test_the_line_of_the_file_that_wins_is_named(charts_dir: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.yaml" for name in ("first", "second", "third"))
    first.write_text("clusterDomain: overridden.example\n")
    second.write_text(
        "# pasted\nproxy:\n  logLevel: warn\nidentity:\n  issuer:\n    scheme: linkerd.io/tls\n"
        "clusterDomain: cluster.local\n"
    )
    third.write_text(
        "base: &base\n  identityTrustDomain: other\n<<: *base\n"
        + yaml.safe_dump({"identityTrustAnchorsPEM": OTHER})
    )
    extra = ExtraValues(files=[first, second, third])
    unsafe, _ = judged(charts_dir, "edge-26.8.3", "linkerd-control-plane", extra)
    assert {said.key: said.place for said in unsafe} == {
        "identity.issuer.scheme": f"values file {second}, line 6",
        "identityTrustDomain": f"values file {third}, line 2",
        "identityTrustAnchorsPEM": f"values file {third}, line 4",
    }
