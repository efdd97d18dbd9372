"""New releases in a repository: a pure function of the known ones and the index."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.mesh.helm.chart_releases import (
    Answer,
    Known,
    new_releases,
    read_repository,
    released,
)
from prefect_linkerd.mesh.helm.charts import ChartName, Entry
from sandbox.credentials import Credentials
from tests.support.advice import follows

NUMBERS = [f"26.{month}.{number}" for month in range(1, 9) for number in (1, 2)]


def index(*numbers: str) -> Answer:
    names: tuple[ChartName, ...] = ("linkerd-crds", "linkerd-control-plane")
    return Answer("e", {n: [Entry(f"20{v}", f"edge-{v}", "u") for v in numbers] for n in names})


def versions(answer: Answer, known: Known | None) -> tuple[set[str], Known]:
    new, after = new_releases(known, answer, "https://charts.example.com")
    return {str(release.version).removeprefix("edge-") for release in new}, after


@settings(deadline=None)
@given(st.lists(st.sets(st.sampled_from(NUMBERS), min_size=1), min_size=1, max_size=6))
def test_every_release_is_announced_once(looks: list[set[str]]) -> None:
    announced: list[str] = []
    known: Known | None = None
    for numbers in looks:
        try:
            new, known = versions(index(*numbers), known)
        except ChartError:
            continue
        announced += new
        assert versions(index(*numbers), known) == (set(), known)
    assert len(announced) == len(set(announced))
    assert not set(announced) & looks[0]


def test_the_first_look_only_takes_note() -> None:
    new, known = versions(index("26.1.1"), None)
    assert (new, known) == (set(), Known("e", frozenset({"edge-26.1.1"})))
    assert versions(index("26.1.1", "26.1.2"), known)[0] == {"26.1.2"}
    # Not modified.
    assert versions(Answer("e", None), known) == (set(), known)


@pytest.mark.parametrize("numbers", [(), ("26.8.1",)])
def test_an_index_that_lost_everything_is_broken(numbers: tuple[str, ...]) -> None:
    with pytest.raises(ChartError, match="none"):
        versions(index(*numbers), Known("", frozenset({"edge-26.1.1"})))


def test_a_release_needs_all_its_charts() -> None:
    control_plane = [Entry("1.16.11", "stable-2.14.10", "u"), Entry("2026.1.1", "", "u")]
    assert released({"linkerd-control-plane": control_plane}) == []
    crds = [Entry("1.8.0", "", "u"), Entry("2026.1.1", "", "u")]
    found = released({"linkerd-control-plane": control_plane, "linkerd-crds": crds})
    assert [str(release.version) for release in found] == ["stable-2.14.10", "edge-26.1.1"]
    assert found[0].charts == (("linkerd-crds", "1.8.0"), ("linkerd-control-plane", "1.16.11"))


@pytest.mark.real_charts
def test_a_folder_is_a_repository(charts_dir: Path) -> None:
    entries = read_repository(str(charts_dir / "stable"), None).entries
    assert entries is not None
    found = [str(release.version) for release in released(entries)]
    charts = (*entries["linkerd2"], *entries["linkerd-control-plane"])
    assert set(found) == {entry.app_version for entry in charts}
    assert (found[0], found[-1]) == ("stable-2.11.5", "stable-2.14.10")


class Tags:
    """The part of an OCI registry that lists tags in pages to clients with a token."""

    def __init__(self, folder: Path) -> None:
        self.tags: dict[str, list[str]] = {}
        self.is_open = True
        tags = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = parse_qs(url.query)
                if url.path == "/token":
                    assert query["scope"] == ["repository:charts:pull"]
                    status, headers = (200 if tags.is_open else 403), {}
                    content: object = {"token": "anonymous"}
                elif self.headers.get("Authorization") != "Bearer anonymous":
                    realm = f'realm="{tags.url}/token",service="r",scope="repository:charts:pull"'
                    status, headers, content = 401, {"WWW-Authenticate": f"Bearer {realm}"}, {}
                else:
                    status, headers, content = tags.page(url.path, query)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        Credentials(folder).issue("server", "registry")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        self.source = f"oci://127.0.0.1:{self.server.server_port}/charts"

    def page(self, path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, str], object]:
        """One tag per page, with a link to the next page."""
        name = path.removeprefix("/v2/charts/").removesuffix("/tags/list")
        if name not in self.tags:
            return 404, {}, {}
        known = self.tags[name]
        first = known.index(query["last"][0]) + 1 if "last" in query else 0
        shown = known[first : first + 1]
        more = first + 1 < len(known)
        link = {"Link": f'<{path}?n=1&last={shown[0]}>; rel="next"'} if more else {}
        return 200, link, {"name": name, "tags": shown or None}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tags]:
    running = Tags(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    yield running
    running.server.shutdown()
    running.server.server_close()


def test_a_registry_is_watched_by_its_tags(registry: Tags) -> None:
    registry.tags = {"linkerd-crds": ["1.8.0", "2026.8.1"], "linkerd-control-plane": ["2026.8.1"]}
    _, known = new_releases(None, read_repository(registry.source, None), registry.source)
    assert known.versions == {"edge-26.8.1"}

    # A control plane with CRDs of the same number is a release; a tag's _ is a +.
    registry.tags["linkerd-control-plane"] += ["1.16.11", "2026.8.3", "2026.8.4_build"]
    registry.tags["linkerd-crds"] += ["2026.8.3"]
    answer = read_repository(registry.source, known)
    assert answer.entries is not None
    assert "2026.8.4+build" in [e.version for e in answer.entries["linkerd-control-plane"]]
    new, known = new_releases(known, answer, registry.source)
    assert [str(release.version) for release in new] == ["stable-2.14.10", "edge-26.8.3"]
    assert new_releases(known, read_repository(registry.source, known), registry.source)[0] == []


@follows(
    "Name a repository with an index.yaml, or a registry without a login.",
    "Correct the registry's address.",
)
def test_a_registry_that_asks_for_a_log_in_or_has_nothing_is_named(registry: Tags) -> None:
    with pytest.raises(ChartError, match="found none"):
        new_releases(None, read_repository(registry.source, None), registry.source)
    registry.is_open = False
    with pytest.raises(ChartError, match="asks for a login"):
        read_repository(registry.source, None)
    registry.is_open = True
    page, registry.page = registry.page, lambda *_: (200, {}, ["no registry"])
    with pytest.raises(ChartError, match="something else"):
        read_repository(registry.source, None)
    registry.page = page
    registry.tags = {name: ["2026.8.3"] for name in ("linkerd-crds", "linkerd-control-plane")}
    _, known = new_releases(None, read_repository(registry.source, None), registry.source)
    assert known.versions == {"edge-26.8.3"}
