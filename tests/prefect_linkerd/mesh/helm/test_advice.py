"""Following the advice of refusals about charts and manifests: the chart is found."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.mesh.helm.chart_releases import Known, new_releases, read_repository
from prefect_linkerd.mesh.helm.charts import Chart, ChartCatalog
from prefect_linkerd.mesh.install.emojivoto import load_manifest
from tests.support.advice import advice, follows

CRDS, PLANE = "linkerd-crds", "linkerd-control-plane"


def chart(folder: Path, name: str, version: str, app_version: str = "") -> Path:
    """Makes a chart in a folder of its own below `folder`."""
    path = folder / f"{name}-{version}"
    path.mkdir(parents=True, exist_ok=True)
    metadata = {"name": name, "version": version, "appVersion": app_version}
    (path / "Chart.yaml").write_text(yaml.safe_dump(metadata))
    return path


def catalog(**fields: Any) -> ChartCatalog:
    return ChartCatalog(MeshConfig.model_validate(fields))


def find(source: object, version: str = "edge-26.8.3", **more: Any) -> Chart:
    charts = {"linkerd": str(source), **more}
    return catalog(version=version, charts=charts).find(CRDS)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An empty repository on loopback, and its folder."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "index.yaml").write_text("entries: {}")
    handler = partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


def index(folder: Path, *versions: str, digest: str = "") -> None:
    """Writes an index of Linkerd's two charts in these versions, without their packages."""
    names = (CRDS, PLANE)
    found = {
        n: [{"version": v, "urls": [f"{n}-{v}.tgz"], "digest": digest} for v in versions]
        for n in names
    }
    (folder / "index.yaml").write_text(yaml.safe_dump({"entries": found}))


@follows(
    "Name the chart's version in charts.versions.",
    "Choose one of these versions, or another chart source (charts).",
)
def test_advice_about_a_version_that_is_not_there(tmp_path: Path) -> None:
    other, better = tmp_path / "other", tmp_path / "better"
    chart(other, CRDS, "9.9.9-acme")
    chart(better, CRDS, "2026.8.3")
    chart(other, "traefik", "1.0.0")

    words = advice(ChartError, lambda: find(other))
    assert words.startswith("Name the chart's version in charts.versions. Choose one of these")
    assert find(other, versions={"edge-26.8.3": {CRDS: "9.9.9-acme"}}).version == "9.9.9-acme"
    assert find(better).version == "2026.8.3"

    traefik = catalog(charts={"traefik": str(other)})
    words = advice(ChartError, lambda: traefik.find("traefik", version="2.0.0"))
    assert words.startswith("Choose one of these versions")
    assert traefik.find("traefik", version="1.0.0")


@follows(
    "Set charts.linkerd to a repository with an index.yaml.",
    "Set charts.linkerd or charts.mirror to a source that has one, or version to a release",
)
def test_advice_about_the_newest_release(tmp_path: Path) -> None:
    stable = tmp_path / "mirror/stable"
    chart(stable, PLANE, "1.16.11")
    chart(tmp_path / "mirror/edge", PLANE, "2026.8.3")

    def newest(version: str = "edge-26.8.3", **charts: str) -> str:
        return str(catalog(version=version, charts=charts).newest_linkerd())

    advice(ChartError, lambda: newest(linkerd="oci://registry.example/charts"))
    advice(ChartError, lambda: newest(linkerd=str(stable)))
    assert newest(linkerd=str(tmp_path / "mirror/edge")) == "edge-26.8.3"
    assert newest(mirror=str(tmp_path / "mirror")) == "edge-26.8.3"
    assert newest("stable-2.14.10", linkerd=str(stable)) == "stable-2.14.10"


@follows(
    "Name an existing folder, or leave charts.mirror and charts.linkerd empty for upstream.",
    "Put the chart's own package there, or choose another chart source (charts).",
)
def test_advice_about_a_folder(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    chart(good, CRDS, "2026.8.3")
    advice(ChartError, lambda: find(tmp_path / "none"))
    advice(ChartError, lambda: catalog(charts={"mirror": str(tmp_path / "none")}).find(CRDS))
    assert find(good)
    assert catalog().source_of(CRDS).startswith("https://helm.linkerd.io/")

    # A package that is not an archive, and one of another chart.
    bad.mkdir()
    index(bad, "2026.8.3")
    package = bad / f"{CRDS}-2026.8.3.tgz"
    package.write_text("none")
    advice(ChartError, lambda: find(bad))
    package.unlink()
    chart(tmp_path, "other", "1").rename(package)
    advice(ChartError, lambda: find(bad))
    assert find(good)
    (package / "Chart.yaml").unlink()
    package.rmdir()
    chart(tmp_path, CRDS, "2026.8.3").rename(package)
    assert find(bad)


@follows(
    "Correct the repository's address: index.yaml is right below it.",
    "Correct the address, or name a folder with the charts (charts.mirror).",
    "Do not install it: the repository, or a proxy in between, is broken.",
)
def test_advice_about_a_repository(repository: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = repository
    mirror = tmp_path / "mirror/edge"
    chart(mirror, CRDS, "2026.8.3")

    def newest(**charts: str) -> str:
        return str(catalog(charts=charts).newest_linkerd())

    index(folder, "2026.8.3")
    (folder / "charts").mkdir()
    (folder / "charts/index.yaml").write_text("just text")
    for wrong in ("charts", "nowhere"):
        advice(ChartError, lambda w=wrong: newest(linkerd=f"{url}/{w}"))
    assert newest(linkerd=url) == "edge-26.8.3"
    assert find("", mirror=str(mirror.parent))

    index(folder, "2026.8.3", digest="0" * 64)
    (folder / f"{CRDS}-2026.8.3.tgz").write_text("changed on the way")
    assert "Choose another chart source" in advice(ChartError, lambda: find(url))
    assert find(mirror)


@follows(
    "Fix the repository's index, or name another repository.",
    "Fix the repository's index: nothing is installed from a broken one.",
)
def test_advice_about_a_repository_that_is_watched(
    repository: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = repository
    known = Known("", frozenset({"edge-26.8.1"}))

    def watch(source: str = url) -> list[str]:
        found, _ = new_releases(known, read_repository(source, known), source)
        return [str(release.version) for release in found]

    advice(ChartError, watch)
    (folder / "index.yaml").write_text(f"entries: {{{CRDS}: [{{urls: [a]}}]}}")
    advice(ChartError, watch)
    index(folder, "2026.8.1", "2026.8.3")
    assert watch() == ["edge-26.8.3"]
    for name in (CRDS, PLANE):
        chart(tmp_path / "another", name, "2026.8.1")
    assert watch(str(tmp_path / "another")) == []


@follows("Correct emojivoto.manifest, or turn emojivoto.enabled off.")
def test_advice_about_a_manifest(tmp_path: Path) -> None:
    file = tmp_path / "emojivoto.yml"
    for text in (None, "a: [", "just text"):
        if text:
            file.write_text(text)
        advice(ChartError, lambda: load_manifest(str(file)))
    # The cause is given in the system's words.
    with pytest.raises(ChartError, match="found connection refused"):
        load_manifest("http://127.0.0.1:1/emojivoto.yml")
    file.write_text("kind: Namespace")
    config = MeshConfig.model_validate({"emojivoto": {"manifest": str(file), "enabled": False}})
    assert load_manifest(config.emojivoto.manifest)
    assert not config.emojivoto.enabled
