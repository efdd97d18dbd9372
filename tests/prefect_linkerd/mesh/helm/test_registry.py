"""Charts from a small OCI registry on loopback with TLS, pulled by the real helm."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.mesh.helm.charts import Chart, ChartCatalog
from sandbox.credentials import Credentials
from tests.support.advice import advice, follows

CONFIG_TYPE = "application/vnd.cncf.helm.config.v1+json"
LAYER_TYPE = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def descriptor(content: bytes, media_type: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def registry_handler(name: str, version: str, package: bytes) -> type[BaseHTTPRequestHandler]:
    """The read half of the OCI distribution API, for one version of one chart."""
    config = json.dumps({"name": name, "version": version, "apiVersion": "v2"}).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(config, CONFIG_TYPE),
            "layers": [descriptor(package, LAYER_TYPE)],
        }
    ).encode()
    blobs = {descriptor(blob, "")["digest"]: blob for blob in (config, package)}
    manifest_digest = descriptor(manifest, "")["digest"]

    class Registry(BaseHTTPRequestHandler):
        log_in = ""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            last = self.path.rsplit("/", 1)[-1]
            if self.log_in and self.headers.get("Authorization") != self.log_in:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="charts"')
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif self.path == "/v2/":
                self.answer(b"{}", "application/json")
            elif self.path.endswith("/tags/list"):
                tags = {"name": f"charts/{name}", "tags": [version]}
                self.answer(json.dumps(tags).encode(), "application/json")
            elif "/manifests/" in self.path and last in (version, manifest_digest):
                self.answer(manifest, MANIFEST_TYPE)
            elif "/blobs/" in self.path and last in blobs:
                self.answer(blobs[last], "application/octet-stream")
            else:
                self.send_error(404)

        def answer(self, content: bytes, media_type: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Docker-Content-Digest", descriptor(content, "")["digest"])
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Registry


@pytest.fixture
def registry(
    request: pytest.FixtureRequest,
    charts_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    helm_path: str,
) -> Iterator[str]:
    """Serves linkerd-crds 2026.8.3; yields its oci:// address."""
    Credentials(tmp_path / "pki").issue("server", "registry")
    package = (charts_dir / "edge/linkerd-crds-2026.8.3.tgz").read_bytes()
    handler = registry_handler("linkerd-crds", "2026.8.3", package)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pki/server.crt", tmp_path / "pki/server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # helm is found on PATH and trusts the registry through Go's own variable.
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(helm_path, folder / "helm")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "pki/ca.crt"))
    monkeypatch.setenv("HELM_REGISTRY_CONFIG", str(tmp_path / "registries"))
    monkeypatch.setattr(handler, "log_in", getattr(request, "param", ""))
    yield f"oci://127.0.0.1:{server.server_port}/charts"
    server.shutdown()
    server.server_close()


def test_a_chart_is_pulled_from_a_registry(registry: str, tmp_path: Path) -> None:
    catalog = ChartCatalog(MeshConfig(charts={"linkerd": registry}), cache=tmp_path / "cache")
    chart = catalog.find("linkerd-crds")
    assert (chart.version, chart.app_version) == ("2026.8.3", "")
    assert "installGatewayAPI" in chart.defaults


def test_a_pull_heeds_where_log_ins_are_and_no_other_setting_of_helm(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Helm exits at once if this driver has no connection.
    monkeypatch.setenv("HELM_DRIVER", "sql")
    monkeypatch.setenv("HELM_KUBECONTEXT", "somewhere-else")
    config = MeshConfig(charts={"linkerd": registry})
    assert ChartCatalog(config, cache=tmp_path / "one").find("linkerd-crds")
    (tmp_path / "log-ins").write_text("no JSON")
    monkeypatch.setenv("HELM_REGISTRY_CONFIG", str(tmp_path / "log-ins"))
    with pytest.raises(ChartError, match="invalid"):
        ChartCatalog(config, cache=tmp_path / "two").find("linkerd-crds")


def test_a_version_that_the_registry_lacks_is_named(registry: str, tmp_path: Path) -> None:
    config = MeshConfig(version="edge-25.4.4", charts={"linkerd": registry})
    with pytest.raises(ChartError, match=r"version 2025\.4\.4"):
        ChartCatalog(config, cache=tmp_path / "cache").find("linkerd-crds")


USER, WORD = "reader", "x" * 8
LOG_IN = "Basic " + base64.b64encode(f"{USER}:{WORD}".encode()).decode()


@follows(
    "Name it in charts.versions, or set charts.linkerd to a repository with an index.yaml.",
    "Install helm 3.13 or newer: https://helm.sh/docs/intro/install/",
    "Correct the registry's address, or log in with `helm registry login`.",
)
@pytest.mark.parametrize("registry", [LOG_IN], indirect=True)
def test_advice_about_a_registry(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(source: str = registry, **versions: str) -> Chart:
        charts = {"linkerd": source, "versions": {"edge-99.1.1": versions}}
        config = MeshConfig.model_validate({"version": "edge-99.1.1", "charts": charts})
        return ChartCatalog(config, cache=tmp_path / "cache").find("linkerd-crds")

    monkeypatch.setattr("prefect_linkerd.mesh.helm.charts.chart_version", lambda *_: None)
    advice(ChartError, find)
    own = {"linkerd-crds": "2026.8.3"}
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        assert "helm 3.13" in advice(ChartError, lambda: find(**own))
    elsewhere = f"{registry}-elsewhere"
    for source in (registry, elsewhere):
        assert "registry login" in advice(ChartError, lambda s=source: find(s, **own))
    host = registry.removeprefix("oci://").partition("/")[0]
    command = ["helm", "registry", "login", host, "--username", USER, "--password-stdin"]
    subprocess.run(command, input=WORD.encode(), check=True, capture_output=True)
    assert find(**own).version == "2026.8.3"
