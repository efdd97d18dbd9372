"""Helm's own records of its releases, read without helm: cheap enough for every run of a check.

Helm keeps each revision of a release in a Secret of type `helm.sh/release.v1`: name, revision and
status are labels, and the release itself is gzipped JSON.
Source: https://helm.sh/docs/topics/advanced/#storage-backends and helm's pkg/storage/driver.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from mesh.cluster import Cluster, Object
from mesh.helm import Release
from mesh.helm_record import decode_record

RECORDS = "owner=helm"
PREFIX = "sh.helm.release.v1."


def read_releases(cluster: Cluster, namespaces: Iterable[str]) -> tuple[Release, ...]:
    """The newest revision of every release in some namespaces, with the user's values.

    One list of labels a namespace, and one Secret a release.

    Raises:
        ReleaseError: a record cannot be read.
    """
    return tuple(
        _read(cluster, newest)
        for namespace in sorted(set(namespaces))
        for newest in _newest(
            cluster.list("v1", "Secret", namespace, labels=RECORDS, metadata_only=True)
        )
    )


def _newest(records: Iterable[Object]) -> list[Object]:
    newest: dict[str, Object] = {}
    for record in records:
        labels: dict[str, str] = record["metadata"].get("labels", {})
        name = labels.get("name", "")
        known = newest.get(name)
        if known is None or int(labels["version"]) > int(known["metadata"]["labels"]["version"]):
            newest[name] = record
    return [newest[name] for name in sorted(newest)]


def _read(cluster: Cluster, record: Object) -> Release:
    metadata = record["metadata"]
    secret = cluster.get("v1", "Secret", metadata["name"], metadata["namespace"])
    # It may have been superseded and pruned since the list; its labels are what is known.
    content = decode_record(secret) if secret is not None else {}
    chart: dict[str, Any] = content.get("chart", {}).get("metadata", {})
    labels: dict[str, str] = metadata["labels"]
    modified = labels.get("modifiedAt") or labels.get("createdAt") or "0"
    return Release(
        name=labels["name"],
        namespace=metadata["namespace"],
        chart=str(chart.get("name", "")),
        chart_version=str(chart.get("version", "")),
        app_version=str(chart.get("appVersion", "")),
        revision=int(labels["version"]),
        status=labels.get("status", "unknown"),
        updated=datetime.fromtimestamp(int(modified), UTC),
        values=content.get("config") or {},
    )
