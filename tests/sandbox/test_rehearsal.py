"""The rehearsal charts: ours, labelled as such, with the real ones' names and objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.cli.at_terminal import AtTerminal, End
from prefect_linkerd.cli.flow_command import show
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import Chart, ChartCatalog, ChartName
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.rehearsal import HEAD
from prefect_linkerd.mesh.helm.values import ClusterFacts, values_for
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.report.metrics import as_metrics
from prefect_linkerd.mesh.report.report import as_linkerd_json, as_text, verify
from prefect_linkerd.tasks.linkerd_mesh import connect
from prefect_linkerd.tasks.outside import (
    create_markdown_artifact,
    create_table_artifact,
    within,
)
from sandbox.binaries import Binaries
from sandbox.cluster import Sandbox
from sandbox.rehearsal import rehearsal_emojivoto, rehearsal_mirror
from tests.support.charts import rendering_helm
from tests.support.snapshots import empty_snapshot

FACTS = ClusterFacts("v1.34.4", frozenset({"v1", "apps/v1", "policy/v1", "batch/v1"}))
NAMES: tuple[ChartName, ...] = (
    "linkerd-crds",
    "linkerd-control-plane",
    "linkerd-viz",
    "cert-manager",
    "traefik",
)
# All tests share one mirror.
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


# How a mesh from rehearsal charts is reported


def test_a_report_says_it_first_in_every_form() -> None:
    marked = {"metadata": {"annotations": {"prefect-linkerd.dev/rehearsal": "true"}}}
    snapshot = empty_snapshot(config_maps={"linkerd/linkerd-identity-trust-roots": marked})
    assert snapshot.is_rehearsal
    assert not empty_snapshot().is_rehearsal
    report = verify(snapshot, (), ())
    forms = (as_text(report, "short"), as_metrics(report).removeprefix("# "), report.summary)
    for text in (*forms, next(iter(as_linkerd_json(report).values()))):
        assert text.startswith(HEAD)
    assert HEAD not in as_text(verify(empty_snapshot(), (), ()))


class Said(AtTerminal):
    """Surroundings that keep what is reported."""

    def __init__(self) -> None:
        super().__init__("test")
        self.pages: list[tuple[str, str]] = []

    def markdown(self, text: str, key: str, description: str) -> None:  # noqa: ARG002
        self.pages.append((text, description))

    def table(self, rows: Any, key: str, description: str) -> None:  # noqa: ARG002
        self.pages.append((description, description))


def reports() -> list[tuple[str, str]]:
    said = Said()
    with within(said):
        create_markdown_artifact("# Plan", key="k", description="A plan")
        create_table_artifact([], key="k", description="Checks")
    return said.pages


def test_every_report_of_a_run_says_it(
    sandbox: Sandbox, cluster: Cluster, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"namespaces": {"linkerd": namespace}, "access": {"kubeconfig": sandbox.kubeconfig}}
    config = MeshConfig.model_validate(fields)
    connect(config)
    assert reports() == [("# Plan", "A plan"), ("Checks",) * 2]
    bundle: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "linkerd-identity-trust-roots",
            "namespace": namespace,
            "annotations": {"prefect-linkerd.dev/rehearsal": "true"},
        },
        "data": {"ca-bundle.crt": ""},
    }
    cluster.apply(bundle)
    # A run's step still knows it after an uninstall has deleted the ConfigMap.
    live = connect(config)
    assert live.is_rehearsal
    cluster.delete("v1", "ConfigMap", "linkerd-identity-trust-roots", namespace)
    assert live.is_rehearsal
    assert all(text.removeprefix("**").startswith(HEAD) for pair in reports() for text in pair)
    show(config, End("Completed", data="done"), "text")
    assert capsys.readouterr().out == f"{HEAD}\ndone\n"
    show(config, End("Completed", data="done"), "json")
    assert capsys.readouterr().out == '"done"\n'


def test_a_plan_of_charts_that_are_not_installed_yet_says_it(
    cluster: Cluster, mirror: Path
) -> None:
    mesh = Mesh(cluster, MeshConfig.model_validate({"charts": {"mirror": mirror}}))
    assert not mesh.is_rehearsal
    mesh.charts.find("linkerd-crds")
    assert mesh.is_rehearsal
