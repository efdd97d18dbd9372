"""Chart sources: repositories, folders, versions and their Kubernetes requirements."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.mesh.helm.charts import (
    ChartCatalog,
    Entry,
    allows_kubernetes,
    charts_of,
    choose_linkerd,
    choose_newest,
    folder_entries,
)
from prefect_linkerd.mesh.helm.images import rewrite_image
from prefect_linkerd.mesh.helm.values import merge
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion


@pytest.mark.parametrize("channel", [pytest.param("stable", marks=pytest.mark.real_charts), "edge"])
def test_every_release_of_a_repository_has_its_charts(charts_dir: Path, channel: str) -> None:
    entries = folder_entries(charts_dir / channel, "linkerd-control-plane")
    assert entries
    for entry in entries:
        facts = release_facts(LinkerdVersion.parse(entry.app_version))
        config = MeshConfig(
            version=entry.app_version,
            charts={"mirror": charts_dir},
            jaeger={"enabled": "linkerd-jaeger" in facts.extensions},
        )
        catalog = ChartCatalog(config)
        for name in charts_of(config):
            chart = catalog.find(name)
            # linkerd-crds does not say which Linkerd it belongs to.
            assert chart.app_version == ("" if name == "linkerd-crds" else entry.app_version)


ENTRIES = [
    Entry("1.8.0", "", "a"),
    Entry("1.6.1", "", "b"),
    Entry("1.4.0", "", "c"),
    Entry("1.9.0-acme.1", "stable-2.15.0", "d"),
    Entry("2026.8.3", "", "e"),
]


@pytest.mark.parametrize(
    ("version", "own", "chosen"),
    [
        ("stable-2.12.2", None, "c"),
        ("stable-2.13.7", None, "b"),
        ("stable-2.14.1", None, "a"),
        ("edge-26.8.3", None, "e"),
        # A vendor's release is recognised by its appVersion or by the configured chart version.
        ("stable-2.15.0", None, "d"),
        ("stable-2.15.1", None, None),
        ("stable-2.15.1", "1.8.0", "a"),
        ("stable-2.14.1", "1.9.0-acme.1", "d"),
        ("stable-2.14.1", "1.9.0", None),
    ],
)
def test_the_chart_of_a_release_is_found_without_app_versions(
    version: str, own: str | None, chosen: str | None
) -> None:
    found = choose_linkerd(ENTRIES, "linkerd-crds", LinkerdVersion.parse(version), own)
    assert (found and found.url) == chosen


def test_an_upstream_version_wins_over_a_repackaged_one() -> None:
    entries = [Entry("1.16.11-acme", "stable-2.14.10", "a"), Entry("1.16.11", "stable-2.14.10", "")]
    release = LinkerdVersion.parse("stable-2.14.10")
    assert choose_linkerd(entries, "linkerd-control-plane", release, None) == entries[1]
    assert choose_linkerd(entries[:1], "linkerd-control-plane", release, None) == entries[0]


@pytest.mark.real_charts
def test_a_configuration_names_the_charts_of_a_release(charts_dir: Path) -> None:
    versions = {"stable-2.15.0": {"linkerd-crds": "1.8.0", "linkerd-control-plane": "1.16.11"}}
    sources = {"mirror": charts_dir, "versions": versions}
    catalog = ChartCatalog(MeshConfig(version="stable-2.15.0", charts=sources))
    assert catalog.find("linkerd-crds").version == "1.8.0"
    assert catalog.find("linkerd-control-plane").version == "1.16.11"
    with pytest.raises(ChartError, match=r"charts\.versions"):
        catalog.find("linkerd-viz")


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"2.14.10": {"linkerd-crds": "1.8.0"}}, "a name such as stable-2.14.10"),
        ({"stable-2.14.10": {"linkerd-crd": "1.8.0"}}, "linkerd-crds, linkerd-control-plane"),
        ({"stable-2.14.10": {"linkerd-crds": ""}}, "empty version"),
    ],
)
def test_chart_versions_that_cannot_be(versions: dict[str, dict[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeshConfig(charts={"versions": versions})


def test_2_11_is_one_chart() -> None:
    config = MeshConfig(profile="demo", version="stable-2.11.5", jaeger={"enabled": True})
    assert charts_of(config) == ("linkerd2", "linkerd-viz", "linkerd-jaeger")


def test_the_newest_release_is_no_pre_release() -> None:
    entries = [Entry(v, "", v) for v in ("v1.9.1", "v1.21.2", "v1.22.0-beta.1", "nonsense")]
    assert choose_newest(entries) == entries[1]
    assert choose_newest(entries, "1.9.1") == entries[0]
    assert choose_newest(entries, "7.0.0") is None


@pytest.mark.real_charts
def test_a_missing_version_names_those_that_there_are(charts_dir: Path) -> None:
    config = MeshConfig(version="stable-2.14.9", charts={"mirror": charts_dir})
    with pytest.raises(ChartError) as missing:
        ChartCatalog(config).find("linkerd-control-plane")
    assert "1.16.10 of stable-2.14.9" in str(missing.value)
    assert "1.16.11 (stable-2.14.10)" in str(missing.value)
    assert str(charts_dir / "stable") in str(missing.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = MeshConfig(charts={"linkerd": str(tmp_path / "none")})
    with pytest.raises(ChartError, match="no folder"):
        ChartCatalog(config).find("linkerd-crds")


def test_packages_without_an_index_are_found(charts_dir: Path, tmp_path: Path) -> None:
    shutil.copy(charts_dir / "edge/linkerd-crds-2026.8.3.tgz", tmp_path)
    chart = ChartCatalog(MeshConfig(charts={"linkerd": str(tmp_path)})).find("linkerd-crds")
    assert (chart.version, chart.app_version) == ("2026.8.3", "")


@pytest.mark.parametrize("form", ["index", "package"])
def test_what_is_kept_of_a_folder_is_not_what_was_there_before(form: str, tmp_path: Path) -> None:
    def put(version: str) -> None:
        metadata = {"apiVersion": "v2", "name": "linkerd-crds", "version": "1.0.0"}
        entry = metadata | {"appVersion": version, "urls": ["linkerd-crds.tgz"]}
        if form == "index":
            index = {"apiVersion": "v1", "entries": {"linkerd-crds": [entry]}}
            (tmp_path / "index.yaml").write_text(yaml.safe_dump(index))
            return
        text = yaml.safe_dump(metadata | {"appVersion": version}).encode()
        with tarfile.open(tmp_path / "linkerd-crds.tgz", "w:gz") as package:
            member = tarfile.TarInfo("linkerd-crds/Chart.yaml")
            member.size = len(text)
            package.addfile(member, io.BytesIO(text))

    for version in ("edge-26.8.3", "edge-26.8.4"):
        put(version)
        for _ in range(2):
            (found,) = folder_entries(tmp_path, "linkerd-crds")
            assert found.app_version == version


def test_nobody_changes_what_another_reads_of_a_chart(charts_dir: Path) -> None:
    def defaults() -> dict[str, object]:
        return ChartCatalog(MeshConfig(charts={"mirror": charts_dir})).find("linkerd-crds").defaults

    before = dict(defaults())
    defaults()["added"] = "by somebody"
    assert defaults() == before


@pytest.fixture
def repository(charts_dir: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A Helm repository on loopback, and its folder."""
    folder = tmp_path / "repository"
    folder.mkdir()
    package = folder / "linkerd-crds-2026.8.3.tgz"
    shutil.copy(charts_dir / "edge/linkerd-crds-2026.8.3.tgz", package)
    entry = {
        "version": "2026.8.3",
        "urls": [package.name],
        "digest": hashlib.sha256(package.read_bytes()).hexdigest(),
    }
    (folder / "index.yaml").write_text(yaml.safe_dump({"entries": {"linkerd-crds": [entry]}}))
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def test_a_repository_is_read_over_http(repository: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = repository
    catalog = ChartCatalog(MeshConfig(charts={"linkerd": url}), cache=tmp_path / "cache")
    first = catalog.find("linkerd-crds")
    assert first.path.is_relative_to(tmp_path / "cache")
    # The package is cached: only the index is requested again.
    (folder / "linkerd-crds-2026.8.3.tgz").unlink()
    assert catalog.find("linkerd-crds") == first


def test_a_package_of_another_digest_is_refused(
    repository: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = repository
    (folder / "linkerd-crds-2026.8.3.tgz").write_bytes(b"something else")
    catalog = ChartCatalog(MeshConfig(charts={"linkerd": url}), cache=tmp_path / "cache")
    with pytest.raises(ChartError, match="SHA-256"):
        catalog.find("linkerd-crds")


def test_a_broken_index_is_no_passing_fault(repository: tuple[str, Path]) -> None:
    url, folder = repository
    (folder / "index.yaml").write_text("just text")
    with pytest.raises(ChartError, match="index of a Helm repository") as broken:
        ChartCatalog(MeshConfig(charts={"linkerd": url})).find("linkerd-crds")
    assert not broken.value.transient


def test_a_repository_that_is_away_is_a_passing_fault() -> None:
    with pytest.raises(ChartError) as away:
        ChartCatalog(MeshConfig(charts={"linkerd": "http://127.0.0.1:1"})).find("linkerd-crds")
    assert away.value.transient


@pytest.mark.parametrize(
    ("constraint", "version", "verdict"),
    [
        ("", "v1.20.0", True),
        (">=1.21.0-0", "v1.21.0", True),
        (">=1.21.0-0", "v1.20.15", False),
        (">=1.21.0-0", "v1.30.2-gke.1", True),
        (">= 1.22.0-0", "v1.22.1", True),
        (">=1.17.0-0 <1.25.0", "v1.25.0", False),
        (">=1.17.0-0, <1.25.0", "v1.24.9", True),
        ("<1.20 || >=1.25", "v1.24.0", False),
        ("<1.20 || >=1.25", "v1.25.1", True),
        ("~1.20", "v1.20.0", None),
        (">=1.20", "unknown", None),
    ],
)
def test_what_a_chart_says_of_kubernetes(
    constraint: str, version: str, verdict: bool | None
) -> None:
    assert allows_kubernetes(constraint, version) is verdict


@pytest.mark.parametrize(
    ("image", "rewritten"),
    [
        ("cr.l5d.io/linkerd/proxy:edge-26.8.3", "r.example/linkerd/proxy:edge-26.8.3"),
        ("docker.l5d.io/buoyantio/emojivoto-web:v11", "r.example/buoyantio/emojivoto-web:v11"),
        ("prom/prometheus:v2.55.1", "r.example/prom/prometheus:v2.55.1"),
        ("nginx", "r.example/nginx"),
        ("localhost:5000/a/b@sha256:00", "r.example/a/b@sha256:00"),
        ("localhost/a", "r.example/a"),
    ],
)
def test_images_keep_their_repository(image: str, rewritten: str) -> None:
    assert rewrite_image(image, "r.example") == rewritten


@given(st.from_regex(r"\A([a-z]{1,8}(\.[a-z]{2,5})?/)?[a-z]{1,8}/[a-z]{1,8}:[a-z0-9]{1,6}\Z"))
def test_rewriting_twice_is_rewriting_once(image: str) -> None:
    once = rewrite_image(image, "r.example:5000/mirror")
    assert once.startswith("r.example:5000/mirror/")
    assert rewrite_image(once, "r.example:5000/mirror") == once
    assert once.split(":")[-1] == image.split(":")[-1]


trees = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(mappings, mappings)
def test_later_values_win_and_mappings_are_joined(one: dict, other: dict) -> None:  # type: ignore[type-arg]
    merged = merge(one, other)
    assert set(merged) == set(one) | set(other)
    for key, value in merged.items():
        if key not in one:
            assert value == other[key]
        elif key not in other:
            assert value == one[key]
        elif isinstance(one[key], dict) and isinstance(other[key], dict):
            assert value == merge(one[key], other[key])
        else:
            assert value == other[key]
    assert merge(merged, other) == merged
