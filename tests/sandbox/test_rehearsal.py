"""The rehearsal charts: ours, labelled as such, and of the real ones' names and objects."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import Chart, ChartCatalog, ChartName
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.values import ClusterFacts, values_for
from prefect_linkerd.mesh.kubernetes.client import Object
from sandbox.binaries import Binaries
from sandbox.rehearsal import rehearsal_emojivoto, rehearsal_mirror
from tests.support.charts import rendering_helm

FACTS = ClusterFacts("v1.34.4", frozenset({"v1", "apps/v1", "policy/v1", "batch/v1"}))
NAMES: tuple[ChartName, ...] = (
    "linkerd-crds",
    "linkerd-control-plane",
    "linkerd-viz",
    "cert-manager",
    "traefik",
)
# One mirror for all of them.
pytestmark = pytest.mark.xdist_group("rehearsal")

SAME_KINDS = {"Deployment", "Service", "APIService"}


@pytest.fixture(scope="module")
def helm(helm_path: str) -> Helm:
    return rendering_helm(helm_path)


@pytest.fixture(scope="module")
def mirror(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rehearsal_mirror(binaries.helm, tmp_path_factory.mktemp("mirror"))


def objects(helm, config: MeshConfig, chart: Chart) -> list[Object]:
    values = values_for(chart, config, FACTS, trust_bundle="x")
    return helm.render(chart, chart.name, "somewhere", values, FACTS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"ha": True}, {"issuer": "cert-manager", "trust_anchor": {"custody": "in-cluster"}}],
    ids=["plain", "ha", "cert-manager"],
)
def test_every_object_says_that_it_is_a_rehearsal(helm, mirror, name, settings) -> None:
    config = MeshConfig.model_validate(
        {"profile": "demo", "charts": {"mirror": mirror}, **settings}
    )
    chart = ChartCatalog(config).find(name)
    assert chart.is_rehearsal
    found = objects(helm, config, chart)
    assert found
    for obj in found:
        assert obj["metadata"]["annotations"]["prefect-linkerd.dev/rehearsal"] == "true"


@pytest.mark.real_charts
@pytest.mark.parametrize("name", [name for name in NAMES if name != "linkerd-crds"])
def test_names_are_those_of_the_real_charts(helm, mirror, charts_dir, name) -> None:
    def names(source: Path) -> set[tuple[str, str]]:
        config = MeshConfig.model_validate({"profile": "demo", "charts": {"mirror": source}})
        rendered = objects(helm, config, ChartCatalog(config).find(name))
        return {
            (obj["kind"], obj["metadata"]["name"]) for obj in rendered if obj["kind"] in SAME_KINDS
        }

    assert names(mirror) <= names(charts_dir)
    deployments = {item for item in names(charts_dir) if item[0] == "Deployment"}
    assert deployments <= names(mirror)


@pytest.mark.real_charts
def test_the_manifest_has_the_workloads_and_services_of_emojivoto(shared_dir: Path) -> None:
    def names(path: Path) -> set[tuple[str, str]]:
        docs = [doc for doc in yaml.safe_load_all(path.read_text()) if doc]
        kinds = ("Deployment", "Service")
        return {(d["kind"], d["metadata"]["name"]) for d in docs if d["kind"] in kinds}

    assert names(rehearsal_emojivoto()) == names(shared_dir / "manifests/emojivoto.yml")
