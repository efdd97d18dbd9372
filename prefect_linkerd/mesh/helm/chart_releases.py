"""Which Linkerd releases a chart repository has, and which are new since the last check."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin

import httpx

from prefect_linkerd.mesh.errors import ChartError
from prefect_linkerd.mesh.helm.charts import (
    ChartName,
    Entry,
    choose_linkerd,
    download,
    folder_entries,
    index_entries,
    linkerd_of,
    read_index,
)
from prefect_linkerd.mesh.linkerd.facts import (
    CONTROL_PLANE_CHARTS,
    EXTENSION_CHARTS,
    LINKERD_CHARTS,
    LinkerdChart,
    release_facts,
)
from prefect_linkerd.mesh.linkerd.version import Channel, LinkerdVersion

_OF_A_RELEASE: tuple[LinkerdChart, ...] = tuple(
    name for name in LINKERD_CHARTS if name not in EXTENSION_CHARTS
)


@dataclass(frozen=True)
class ChartRelease:
    """A Linkerd release whose charts are all available, with each chart's name and version."""

    version: LinkerdVersion
    charts: tuple[tuple[str, str], ...]

    @property
    def channel(self) -> Channel:
        return self.version.channel


@dataclass(frozen=True)
class Known:
    """What a repository had at the last check: its ETag and its Linkerd versions."""

    etag: str = ""
    versions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Answer:
    """What a repository has now; `entries` is None if nothing changed since the known ETag."""

    etag: str
    entries: Mapping[ChartName, Sequence[Entry]] | None


def released(entries: Mapping[ChartName, Sequence[Entry]]) -> list[ChartRelease]:
    """The Linkerd releases whose charts are all available, oldest first.

    A control plane does not count as a release until its CRDs' chart is published, too.
    """
    versions = {
        version
        for name in CONTROL_PLANE_CHARTS
        for entry in entries.get(name, ())
        if (version := linkerd_of(entry, name)) is not None
    }
    found: list[ChartRelease] = []
    for version in sorted(versions):
        charts = [
            (name, choose_linkerd(entries.get(name, ()), name, version, None))
            for name in release_facts(version).charts
        ]
        if all(entry is not None for _, entry in charts):
            found.append(ChartRelease(version, tuple((n, e.version) for n, e in charts if e)))
    return found


def new_releases(
    known: Known | None, answer: Answer, source: str
) -> tuple[list[ChartRelease], Known]:
    """The releases that are new since the last check, and what to remember for the next one.

    The first check only records the releases that exist: none of them counts as new.

    Raises:
        ChartError: the index has no releases, or none of the known ones, so it must be broken.
    """
    if answer.entries is None:
        return [], known or Known(answer.etag)
    found = released(answer.entries)
    versions = frozenset(str(release.version) for release in found)
    before = known.versions if known else frozenset[str]()
    if not versions or (before and not versions & before):
        raise ChartError(
            f"index of {source}",
            expected="Linkerd releases" + (f", such as {sorted(before)[-1]}" if before else ""),
            found="none" if not versions else "none of the earlier ones",
            remedy="Fix the repository's index, or name another repository.",
        )
    # A release that was withdrawn and comes back is not announced again.
    after = Known(answer.etag, before | versions)
    if known is None:
        return [], after
    return [release for release in found if str(release.version) not in before], after


def read_repository(source: str, known: Known | None) -> Answer:
    """Reads a repository, registry or folder; a repository only if it changed (RFC 9110, 13.1.2).

    Raises:
        ChartError: it cannot be read, or is broken; `transient` if a later attempt may succeed.
    """
    if source.startswith("oci://"):
        return Answer(
            "",
            {
                name: [Entry(tag.replace("_", "+"), "", "") for tag in _tags(source, name)]
                for name in _OF_A_RELEASE
            },
        )
    if not source.startswith(("https://", "http://")):
        folder = Path(source).expanduser()
        return Answer("", {name: folder_entries(folder, name) for name in _OF_A_RELEASE})
    url = urljoin(source.rstrip("/") + "/", "index.yaml")
    headers = {"If-None-Match": known.etag} if known and known.etag else {}
    response = download(url, headers)
    if response.status_code == HTTPStatus.NOT_MODIFIED:
        return Answer(known.etag if known else "", None)
    return Answer(response.headers.get("ETag", ""), _entries(response.content, source))


def _entries(content: bytes, source: str) -> dict[ChartName, Sequence[Entry]]:
    index = read_index(content)
    try:
        return {name: index_entries(index, name, source) for name in _OF_A_RELEASE}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ChartError(
            f"{source.rstrip('/')}/index.yaml",
            expected="the index of a Helm repository",
            found=f"broken entries ({type(error).__name__})",
            remedy="Fix the repository's index: nothing is installed from a broken one.",
        ) from None


def _tags(source: str, name: ChartName) -> Iterator[str]:
    """The tags of a chart in an OCI registry; empty if it has no such chart.

    Sources: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#content-discovery
    and https://distribution.github.io/distribution/spec/auth/token/
    """
    host, _, path = source.removeprefix("oci://").rstrip("/").partition("/")
    repository = f"{path}/{name}" if path else name
    url: str | None = f"https://{host}/v2/{repository}/tags/list?n=1000"
    headers: dict[str, str] = {}
    while url is not None:
        response = download(url, headers, allowed=(401, 404))
        if response.status_code == HTTPStatus.UNAUTHORIZED and not headers:
            headers = _token(response.headers.get("WWW-Authenticate", ""), source)
            continue
        if response.status_code == HTTPStatus.NOT_FOUND:
            return
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            raise _no_access(source)
        try:
            answer = cast("dict[str, Any]", response.json())
            yield from cast("list[str]", answer.get("tags") or [])
        except (ValueError, AttributeError):
            raise ChartError(
                url,
                expected="a list of tags",
                found="something else",
                remedy="Correct the registry's address.",
            ) from None
        following = response.links.get("next", {}).get("url")
        url = urljoin(f"https://{host}", following) if following else None


def _token(challenge: str, source: str) -> dict[str, str]:
    """The header with an anonymous token for a public registry, requested as its challenge says."""
    fields = dict(cast("list[tuple[str, str]]", re.findall(r'(\w+)="([^"]*)"', challenge)))
    realm = fields.pop("realm", "")
    if not challenge.startswith("Bearer ") or not realm.startswith("https://"):
        raise _no_access(source)
    response = download(str(httpx.URL(realm, params=fields)), allowed=(401, 403))
    if response.status_code != HTTPStatus.OK:
        raise _no_access(source)
    answer = response.json()
    return {"Authorization": f"Bearer {answer.get('token') or answer.get('access_token')}"}


def _no_access(source: str) -> ChartError:
    return ChartError(
        source,
        expected="a registry whose tags can be listed without a login",
        found="one that asks for a login",
        remedy="Name a repository with an index.yaml, or a registry without a login.",
    )
