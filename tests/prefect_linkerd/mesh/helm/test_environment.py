"""What part of the caller's environment reaches the real helm, on a real API server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from prefect_linkerd.mesh.helm.charts import Chart, read_chart
from prefect_linkerd.mesh.helm.client import DesiredRelease, Helm
from prefect_linkerd.mesh.helm.environment import KEPT, helm_environment
from prefect_linkerd.mesh.helm.records import read_releases
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.kubernetes.client import Cluster

HOSTILE = {
    "HELM_DRIVER": "configmap",
    "HELM_KUBECONTEXT": "somewhere-else",
    "HELM_KUBEAPISERVER": "https://127.0.0.1:1",
    "HELM_NAMESPACE": "default",
    "HELM_KUBETOKEN": "somebody-else",
    "HELM_KUBEASUSER": "system:anonymous",
    "HELM_KUBECAFILE": "/nonexistent",
    "HELM_KUBETLS_SERVER_NAME": "elsewhere.example",
    "KUBECONFIG": "/nonexistent",
}


@pytest.fixture
def chart(tmp_path: Path) -> Chart:
    """A chart with one ConfigMap whose namespace helm sets."""
    folder = tmp_path / "chart"
    (folder / "templates").mkdir(parents=True)
    metadata = {"apiVersion": "v2", "name": "linkerd-viz", "version": "1.0.0"}
    (folder / "Chart.yaml").write_text(yaml.safe_dump(metadata))
    (folder / "templates/all.yaml").write_text(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: content},"
        ' data: {text: "{{ .Values.text }}"}}'
    )
    return read_chart("linkerd-viz", folder, "here")


def test_helm_is_told_where_its_files_are_and_nothing_else() -> None:
    kept = dict.fromkeys(KEPT, "/somewhere")
    ours = {"PATH": "/bin", "HTTPS_PROXY": "http://proxy", "HELMET": "on"}
    found = helm_environment(kept | ours | HOSTILE | {"HELM_OF_TOMORROW": "x"}, Path("/k"))
    assert found == kept | ours | {"KUBECONFIG": "/k"}
    assert helm_environment(HOSTILE, None) == {"KUBECONFIG": os.devnull}


@pytest.mark.parametrize("name", [*HOSTILE, "all of them"])
def test_nothing_of_the_callers_leads_helm_astray(
    name: str,
    cluster: Cluster,
    helm_path: str,
    namespace: str,
    chart: Chart,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in HOSTILE if name == "all of them" else [name]:
        monkeypatch.setenv(variable, HOSTILE[variable])
    helm = Helm(cluster, helm_path)
    helm.reconcile(DesiredRelease("app", namespace, chart, {"text": "one"}, timeout=30))
    [found] = read_releases(cluster, [namespace])
    assert (found.name, found.status) == ("app", "deployed")
    content = cluster.get("v1", "ConfigMap", "content", namespace)
    assert content is not None
    assert content["data"] == {"text": "one"}
    names = {obj["metadata"]["name"] for obj in cluster.list("v1", "ConfigMap", namespace)}
    assert not {n for n in names if n.startswith("sh.helm.release")}


def test_every_step_of_a_release_is_clean_and_history_is_ours(
    cluster: Cluster,
    helm_path: str,
    namespace: str,
    chart: Chart,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = {"HELM_MAX_HISTORY": "1", "HELM_DEBUG": "true", "HELM_NO_PLUGINS": "1"}
    for variable, value in (HOSTILE | more).items():
        monkeypatch.setenv(variable, value)
    helm = Helm(cluster, helm_path)
    for text in ("one", "two", "three"):
        helm.reconcile(DesiredRelease("app", namespace, chart, {"text": text}, timeout=30))
    assert helm.roll_back("app", namespace, 1, 30)
    [found] = read_releases(cluster, [namespace], values=True)
    assert (found.revision, found.values) == (4, {"text": "one"})
    facts = ClusterFacts("v1.34.0", frozenset())
    [rendered] = helm.render(chart, "app", namespace, {"text": "x"}, facts)
    assert rendered["data"] == {"text": "x"}
    helm.uninstall("app", namespace, 30)
    assert cluster.get("v1", "ConfigMap", "content", namespace) is None
    [kept] = read_releases(cluster, [namespace])
    assert kept.status == "uninstalled"


def test_helm_is_found_also_where_the_path_has_nothing_else(
    cluster: Cluster,
    helm_path: str,
    chart: Chart,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(helm_path, folder / "helm")
    monkeypatch.setenv("PATH", str(folder))
    facts = ClusterFacts("v1.34.0", frozenset())
    assert Helm(cluster).render(chart, "app", "default", {"text": "x"}, facts)
