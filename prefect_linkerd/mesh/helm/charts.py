"""Finds a mesh's charts in a repository, a registry or a folder, and reads them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urljoin

import semver
import yaml
from platformdirs import user_cache_path
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from prefect_linkerd.mesh.atomic_file import write_whole
from prefect_linkerd.mesh.config.model import ChartSources, MeshConfig
from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.mesh.helm.environment import helm_environment
from prefect_linkerd.mesh.helm.rehearsal import is_rehearsal
from prefect_linkerd.mesh.kubernetes.client import cause_of
from prefect_linkerd.mesh.kubernetes.manifests import read_kept_yaml, read_objects, read_yaml
from prefect_linkerd.mesh.linkerd.facts import (
    CONTROL_PLANE_CHARTS,
    CRDS_CHARTS,
    LinkerdChart,
    release_facts,
)
from prefect_linkerd.mesh.linkerd.releases import chart_version, release_of
from prefect_linkerd.mesh.linkerd.version import Channel, LinkerdVersion
from prefect_linkerd.mesh.linkerd.version_range import admits

if TYPE_CHECKING:
    import httpx

ChartName = Literal[LinkerdChart, "cert-manager", "traefik"]

UPSTREAM: dict[str, str] = {
    "stable": "https://helm.linkerd.io/stable",
    "edge": "https://helm.linkerd.io/edge",
    "jetstack": "https://charts.jetstack.io",
    "traefik": "https://traefik.github.io/charts",
}
"""The upstream repositories, each under the folder name that replaces it in a mirror."""


@dataclass(frozen=True)
class Chart:
    """One version of a chart, on this machine.

    `kube_version` is the chart's constraint on Kubernetes, empty if it has none; `source` says
    where it came from; `path` is its package or folder; `defaults` and `ha` are its own
    `values.yaml` and `values-ha.yaml`. `is_rehearsal` marks a stand-in for the real software.
    """

    name: ChartName
    version: str
    app_version: str
    kube_version: str
    source: str
    path: Path
    defaults: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    ha: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    has_crds: bool = False
    is_rehearsal: bool = False


@dataclass(frozen=True)
class Entry:
    """One version of a chart in a repository's index."""

    version: str
    app_version: str
    url: str
    digest: str = ""


def charts_of(config: MeshConfig) -> tuple[ChartName, ...]:
    """The Linkerd charts that a configuration installs, in the order of their installation."""
    names: list[ChartName] = [*release_facts(config.linkerd).charts]
    if config.viz.enabled:
        names.append("linkerd-viz")
    if config.jaeger.enabled:
        names.append("linkerd-jaeger")
    return tuple(names)


def choose_linkerd(
    entries: Sequence[Entry], name: ChartName, release: LinkerdVersion, version: str | None
) -> Entry | None:
    """The entry of a Linkerd chart that belongs to a Linkerd release.

    Args:
        version: the chart version that the user names for the release; no other is accepted then.
            None: the one that upstream gave the release, else the one whose appVersion is the
            release, as in a vendor's own repository.
    """
    wanted = version or chart_version(name, release)
    for entry in entries:
        if entry.version == wanted:
            return entry
    if version is not None:
        return None
    return next((entry for entry in entries if entry.app_version == str(release)), None)


def choose_newest(entries: Iterable[Entry], version: str | None = None) -> Entry | None:
    """The wanted version of a chart, or its newest version that is not a pre-release."""
    if version is not None:
        return next((e for e in entries if e.version.lstrip("v") == version.lstrip("v")), None)
    released = [
        (parsed, entry)
        for entry in entries
        if (parsed := _semver(entry.version)) is not None and not parsed.prerelease
    ]
    return max(released, key=lambda pair: pair[0])[1] if released else None


def _semver(text: str) -> semver.Version | None:
    try:
        return semver.Version.parse(text.lstrip("v"), optional_minor_and_patch=True)
    except ValueError:
        return None


def allows_kubernetes(constraint: str, version: str) -> bool | None:
    """Whether a chart's `kubeVersion` admits a Kubernetes version; None if we cannot tell.

    Helm decides at installation. A vendor's suffix (`v1.30.2-gke.1`) does not make a version older.
    """
    return admits(constraint, version)


def linkerd_source(config: MeshConfig, *, channel: Channel | None = None) -> str:
    """The repository of Linkerd's charts: as configured, else the mirror's folder, else upstream.

    Args:
        channel: by default that of the configuration's version.
    """
    sources = config.charts
    return _source(sources, sources.linkerd, channel or config.linkerd.channel)


def _source(sources: ChartSources, own: str | None, repository: str) -> str:
    if own:
        return own
    return str(sources.mirror / repository) if sources.mirror else UPSTREAM[repository]


class ChartCatalog:
    """Finds charts where a configuration says they are, and keeps packages in the user's cache.

    A catalog reads a repository's index only once.

    Args:
        config: provides the chart sources, the version and the channel.
        cache: where downloaded packages are kept; by default the user's cache folder.
    """

    def __init__(self, config: MeshConfig, *, cache: Path | None = None) -> None:
        self._config = config
        self._cache = cache or user_cache_path("prefect-linkerd") / "charts"
        self._indices: dict[str, object] = {}
        self._has_rehearsal = False

    @property
    def has_rehearsal(self) -> bool:
        """Whether any chart found so far is a stand-in for the real software."""
        return self._has_rehearsal

    def source_of(self, name: ChartName, *, channel: Channel | None = None) -> str:
        """The repository of a chart: as configured, else the mirror's folder, else upstream.

        Args:
            channel: of Linkerd; by default that of the configuration's version.
        """
        sources = self._config.charts
        match name:
            case "cert-manager":
                return _source(sources, sources.cert_manager, "jetstack")
            case "traefik":
                return _source(sources, sources.traefik, "traefik")
            case _:
                return linkerd_source(self._config, channel=channel)

    def find(self, name: ChartName, *, version: str | None = None) -> Chart:
        """Finds a chart: of the given version, else of the configured Linkerd, else the newest.

        Raises:
            ChartError: the repository cannot be read, or lacks the chart or version; names both
                and the available versions. `transient` if a later attempt may succeed.
        """
        chart = self._found(name, version)
        self._has_rehearsal |= chart.is_rehearsal
        return chart

    def _found(self, name: ChartName, version: str | None) -> Chart:
        source = self.source_of(name)
        if source.startswith("oci://"):
            return self._from_registry(source, name, version)
        entries = self._entries(source, name)
        is_by_release = version is None and name not in ("cert-manager", "traefik")
        chosen = (
            choose_linkerd(entries, name, self._config.linkerd, self._own_version(name))
            if is_by_release
            else choose_newest(entries, version)
        )
        if chosen is None:
            if is_by_release:
                version = self._linkerd_version(name)
                expected = f"{version or 'the version'} of {self._config.linkerd}"
            else:
                expected = version or "a release"
            known = [
                f"{entry.version} ({entry.app_version})" if entry.app_version else entry.version
                for entry in entries
            ]
            remedy = "Choose one of these versions, or another chart source (charts)."
            if is_by_release:
                remedy = f"Name the chart's version in charts.versions. {remedy}"
            raise ChartError(
                f"chart {name} in {source}",
                expected=expected,
                found=", ".join(known) or "no version of this chart",
                remedy=remedy,
            )
        return read_chart(name, self._fetch(source, chosen), source)

    def newest_linkerd(self) -> LinkerdVersion:
        """The newest Linkerd of the mesh's channel that its chart source has.

        Raises:
            ChartError: the source cannot be read, has no index, or no release of the channel.
        """
        channel = self._config.linkerd.channel
        source = self.source_of("linkerd-control-plane")
        if source.startswith("oci://"):
            raise ChartError(
                f"chart source {source}",
                expected=f"an index that names the newest release of channel {channel}",
                found="a registry, which has none",
                remedy="Set charts.linkerd to a repository with an index.yaml.",
            )
        found = [
            newest
            for name in CONTROL_PLANE_CHARTS
            if (newest := newest_release(self._entries(source, name), name, channel)) is not None
        ]
        if found:
            return max(found)
        raise ChartError(
            f"chart source {source}",
            expected=f"a release of channel {channel}",
            found="none",
            remedy="Set charts.linkerd or charts.mirror to a source that has one, or version to a "
            "release of the other channel.",
        )

    def _own_version(self, name: ChartName) -> str | None:
        """The version of a chart that the configuration names for its Linkerd release."""
        return self._config.charts.versions.get(self._config.version, {}).get(name)

    def _linkerd_version(self, name: ChartName) -> str | None:
        return self._own_version(name) or chart_version(name, self._config.linkerd)

    def _entries(self, source: str, name: ChartName) -> list[Entry]:
        if source.startswith(("https://", "http://")):
            # Upstream's index is megabytes, and lists every chart.
            if source not in self._indices:
                url = urljoin(source.rstrip("/") + "/", "index.yaml")
                self._indices[source] = read_index(download(url).content)
            return index_entries(self._indices[source], name, source)
        return folder_entries(Path(source).expanduser(), name)

    def _fetch(self, source: str, entry: Entry) -> Path:
        """The path of a chart's package; downloads it and verifies its digest if necessary."""
        if not source.startswith(("https://", "http://")):
            return Path(source).expanduser() / entry.url
        url = urljoin(source.rstrip("/") + "/", entry.url)
        key = hashlib.sha256(f"{url} {entry.digest}".encode()).hexdigest()[:16]
        target = self._cache / key / url.rsplit("/", 1)[-1]
        if target.exists():
            return target
        content = download(url).content
        if entry.digest and hashlib.sha256(content).hexdigest() != entry.digest:
            raise ChartError(
                url,
                expected=f"SHA-256 {entry.digest}, as the index says",
                found="another digest",
                remedy="Do not install it: the repository, or a proxy in between, is broken. "
                "Choose another chart source (charts).",
            )
        write_whole(target, content)
        return target

    def _from_registry(self, source: str, name: ChartName, version: str | None) -> Chart:
        """Pulls a chart from an OCI registry with helm, which has the registry's log-ins."""
        wanted = version
        if wanted is None and name not in ("cert-manager", "traefik"):
            wanted = self._linkerd_version(name)
            if wanted is None:
                raise ChartError(
                    f"chart {name} in {source}",
                    expected=f"the chart version of {self._config.linkerd}",
                    found="none known: a registry has no index to look it up in",
                    remedy="Name it in charts.versions, or set charts.linkerd to a repository with "
                    "an index.yaml.",
                )
        reference = f"{source.rstrip('/')}/{name}"
        helm = shutil.which("helm")
        if helm is None:
            raise ChartError(
                reference,
                expected="helm on PATH",
                found="none",
                remedy="Install helm 3.13 or newer: https://helm.sh/docs/intro/install/",
            )
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache) as folder:
            command = [helm, "pull", reference, "--destination", folder]
            done = subprocess.run(
                command + (["--version", wanted] if wanted else []),
                capture_output=True,
                text=True,
                check=False,
                env=helm_environment(os.environ, None),
            )
            packages = list(Path(folder).glob("*.tgz"))
            if done.returncode or not packages:
                raise ChartError(
                    reference,
                    expected=f"version {wanted}" if wanted else "a release",
                    found=done.stderr.strip()[-500:] or "nothing",
                    remedy="Correct the registry's address, or log in with `helm registry login`.",
                    transient="not found" not in done.stderr,
                )
            target = self._cache / hashlib.sha256(reference.encode()).hexdigest()[:16]
            target.mkdir(exist_ok=True)
            kept = packages[0].replace(target / packages[0].name)
        return read_chart(name, kept, source)


def newest_release(
    entries: Iterable[Entry], name: ChartName, channel: Channel
) -> LinkerdVersion | None:
    """The newest Linkerd release of a channel among a chart's entries."""
    versions = (linkerd_of(entry, name) for entry in entries)
    return max((v for v in versions if v is not None and v.channel == channel), default=None)


def linkerd_of(entry: Entry, name: ChartName) -> LinkerdVersion | None:
    """The Linkerd release that a chart's entry belongs to.

    None if the entry does not say, or if the release cannot be installed: it is a pre-release, or
    too old.
    """
    return LinkerdVersion.find(entry.app_version or release_of(name, entry.version) or "")


def read_index(content: bytes) -> object:
    """Parses an index.yaml; None, which `index_entries` refuses, if it is not YAML."""
    try:
        return read_yaml(content)
    except yaml.YAMLError:
        return None


def index_entries(index: object, name: ChartName, source: str) -> list[Entry]:
    """The versions of one chart in a repository's parsed index.yaml.

    Raises:
        ChartError: it is not an index.
    """
    if not isinstance(index, Mapping) or not isinstance(
        cast("Mapping[str, Any]", index).get("entries"), Mapping
    ):
        raise ChartError(
            f"{source}/index.yaml",
            expected="the index of a Helm repository",
            found="something else",
            remedy="Correct the repository's address: index.yaml is right below it.",
        )
    entries: Mapping[str, Any] = cast("Mapping[str, Any]", index)["entries"]
    return [
        Entry(
            str(item["version"]),
            str(item.get("appVersion") or ""),
            str(item["urls"][0]),
            str(item.get("digest") or "").removeprefix("sha256:"),
        )
        for item in cast("list[dict[str, Any]]", entries.get(name) or [])
        if item.get("urls")
    ]


def folder_entries(folder: Path, name: ChartName) -> list[Entry]:
    """The versions of one chart in a folder: from its index.yaml, else from the charts in it.

    Raises:
        ChartError: there is no such folder, or its index is not valid.
    """
    if not folder.is_dir():
        raise ChartError(
            f"chart source {folder}",
            expected="a folder with charts",
            found="no folder",
            remedy="Name an existing folder, or leave charts.mirror and charts.linkerd empty for "
            "upstream.",
        )
    if (index := folder / "index.yaml").exists():
        try:
            content = read_kept_yaml(index.read_bytes())
        except yaml.YAMLError:
            content = None
        return index_entries(content, name, str(folder))
    found: list[Entry] = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".tgz" or (path / "Chart.yaml").exists():
            metadata = cast("dict[str, Any]", read_kept_yaml(_member(path, "Chart.yaml") or "{}"))
            if metadata.get("name") == name:
                app_version = str(metadata.get("appVersion", ""))
                found.append(Entry(str(metadata["version"]), app_version, path.name))
    return found


def read_chart(name: ChartName, path: Path, source: str) -> Chart:
    """Reads a chart's metadata and values from its package or folder.

    Raises:
        ChartError: it is not that chart.
    """
    metadata = cast("dict[str, Any]", read_kept_yaml(_member(path, "Chart.yaml") or "{}") or {})
    if metadata.get("name") != name:
        raise ChartError(
            str(path),
            expected=f"the chart {name}",
            found=str(metadata.get("name") or "no chart"),
            remedy="Put the chart's own package there, or choose another chart source (charts).",
        )
    annotations: dict[str, Any] = metadata.get("annotations") or {}
    return Chart(
        name=name,
        version=str(metadata["version"]),
        app_version=str(metadata.get("appVersion") or ""),
        kube_version=str(metadata.get("kubeVersion") or ""),
        source=source,
        path=path,
        defaults=_values(path, "values.yaml"),
        ha=_values(path, "values-ha.yaml"),
        has_crds=name in (*CRDS_CHARTS, "cert-manager", "traefik"),
        is_rehearsal=is_rehearsal(annotations),
    )


def folder_crds(chart: Chart) -> list[dict[str, Any]]:
    """The CRDs of a chart's `crds/` folder, which Helm installs once and never upgrades.

    Source: https://helm.sh/docs/chart_best_practices/custom_resource_definitions/

    Raises:
        ChartError: it cannot be read.
    """
    files = _members(chart.path, re.compile(r"crds/.+\.ya?ml"))
    return [crd for _, text in files for crd in read_objects(text)]


def _values(path: Path, name: str) -> dict[str, Any]:
    return cast("dict[str, Any]", read_kept_yaml(_member(path, name) or "{}") or {})


def _member(path: Path, name: str) -> str | None:
    """The text of a file at the top level of a chart, or None."""
    if path.is_dir():
        file = path / name
        return file.read_text() if file.is_file() else None
    try:
        state = path.stat()
    except OSError:
        return _packed(path, name)
    return _kept(path, name, state.st_mtime_ns, state.st_size)


def _packed(path: Path, name: str) -> str | None:
    found = _members(path, re.compile(re.escape(name)))
    return next((text for _, text in found), None)


@lru_cache(maxsize=256)
def _kept(path: Path, name: str, _modified: int, _size: int) -> str | None:
    # A run reads the same packages repeatedly: for each chart it opens every package in the folder,
    # and it reads a package to its end to learn that a file is missing.
    return _packed(path, name)


def _members(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """The files of a chart whose whole path in it matches: path and text of each."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if wanted.fullmatch(name) and file.is_file():
                yield name, file.read_text()
        return
    try:
        with tarfile.open(path) as package:
            for member in package:
                # The first part is the folder that the chart was packed from.
                name = member.name.partition("/")[2]
                content = package.extractfile(member) if wanted.fullmatch(name) else None
                if content is not None:
                    yield name, content.read().decode()
    except (OSError, tarfile.TarError) as error:
        raise ChartError(
            str(path),
            expected="a chart's package",
            found=type(error).__name__,
            remedy="Put the chart's own package there, or choose another chart source (charts).",
        ) from None


def download(
    url: str, headers: Mapping[str, str] | None = None, *, allowed: Sequence[int] = ()
) -> httpx.Response:
    """Sends a GET; accepts success, 304 (for conditional headers) and the `allowed` statuses.

    Raises:
        ChartError: no response, or another status; `transient` if a later attempt may succeed.
    """
    # Imported only for a download, because that takes long.
    import httpx

    try:
        response = fetch(url, headers)
        return response if response.status_code in (304, *allowed) else response.raise_for_status()
    except httpx.HTTPError as error:
        answered = isinstance(error, httpx.HTTPStatusError)
        raise ChartError(
            url,
            expected="a successful download",
            found=failure_of(error),
            remedy="Correct the address, or name a folder with the charts (charts.mirror).",
            transient=not answered or error.response.status_code >= 500,
        ) from None


def failure_of(error: httpx.HTTPError) -> str:
    """The status of an unsuccessful response, or why there was no response."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    return cause_of(error)


def fetch(url: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """The response to a GET, whatever its status; tried up to three times until there is one.

    Raises:
        httpx.TransportError: there was no response.
    """
    import httpx

    for attempt in Retrying(
        retry=retry_if_exception_type(httpx.TransportError),
        stop=stop_after_attempt(3),
        wait=wait_exponential(multiplier=0.5),
        reraise=True,
    ):
        with attempt:
            timeout = httpx.Timeout(60, connect=10)
            return httpx.get(url, headers=headers, timeout=timeout, follow_redirects=True)
    raise AssertionError("the last attempt raises")
