"""Helm's records of a release: a Secret for each revision, with chart, values and manifest.

The Secret's labels hold name, revision and status; the release itself is gzipped JSON.

Source: https://helm.sh/docs/topics/advanced/#storage-backends and helm `pkg/storage/driver`.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import yaml

from prefect_linkerd.mesh.errors import ApiError, ReleaseError
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object, name_of
from prefect_linkerd.mesh.kubernetes.manifests import read_objects

RECORDS = "owner=helm"
SECRET_TYPE = "helm.sh/release.v1"  # noqa: S105 the type of a Secret
RELEASE_NAME = "meta.helm.sh/release-name"
RELEASE_NAMESPACE = "meta.helm.sh/release-namespace"
RESOURCE_POLICY = "helm.sh/resource-policy"
_HELMS_OWN = ("name", "owner", "status", "version", "createdAt", "modifiedAt")
"""Labels that Helm itself sets on a record; the others are the release's.

Source: helm `pkg/storage/driver`.
"""


@dataclass(frozen=True, order=True)
class ReleaseRef:
    """A release by its name and the namespace that its records are in."""

    name: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Release:
    """The current state of a Helm release: its newest revision.

    `namespace` is where its records are, and `target` where it puts its objects; they differ only
    if something other than the helm binary drives the release. `place` is `target`, unless the
    value `namespace`, which Linkerd's 2.11 charts have, says otherwise. `values` are those that the
    user supplied; None if they were not read. `labels` are the release's own, and `writer` is the
    field manager that wrote its newest record.
    """

    name: str
    namespace: str
    chart: str
    chart_version: str
    app_version: str
    revision: int
    status: str
    updated: datetime
    values: dict[str, Any] | None = field(default=None, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    writer: str = field(default="", compare=False)
    target: str = ""
    place: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", self.target or self.namespace)
        object.__setattr__(self, "place", self.place or self.target)

    @property
    def ref(self) -> ReleaseRef:
        return ReleaseRef(self.name, self.namespace)


@dataclass(frozen=True)
class Revision:
    """One revision of a release as Helm recorded it.

    `values` are the user's, `defaults` the chart's own.
    """

    name: str
    namespace: str
    number: int
    status: str
    chart: str
    chart_version: str
    app_version: str
    values: dict[str, Any] = field(repr=False)
    defaults: dict[str, Any] = field(repr=False)
    documents: tuple[tuple[str, Object], ...] = field(repr=False)
    """Each object of the manifest: its text as Helm wrote it, and parsed."""
    content: dict[str, Any] = field(repr=False)
    """The whole record, as Helm wrote it."""

    @property
    def ref(self) -> ReleaseRef:
        return ReleaseRef(self.name, self.namespace)

    @property
    def manifest(self) -> tuple[Object, ...]:
        """The objects that this revision made."""
        return tuple(obj for _, obj in self.documents)


def read_releases(
    cluster: Cluster, namespaces: Iterable[str] | None = None, *, values: bool = False
) -> tuple[Release, ...]:
    """Every release of some namespaces, by default of all, whatever its status.

    Their values, which may hold secrets, are left out unless `values` is set. Does not run helm, so
    it is cheap enough for every run of a check: it lists metadata once per namespace, and reads one
    Secret per release.

    Raises:
        ReleaseError: a record cannot be read.
    """
    places: list[str | None] = [None] if namespaces is None else [*sorted(set(namespaces))]
    found = (
        _release(cluster, record) or read_release(cluster, *_key(record))
        for place in places
        for record in _newest(cluster, place, RECORDS)
    )
    return tuple(
        release if values else replace(release, values=None)
        for release in found
        if release is not None
    )


def read_release(cluster: Cluster, name: str, namespace: str) -> Release | None:
    """One release with its values, or None.

    Raises:
        ReleaseError: its record cannot be read.
    """
    while newest := _newest(cluster, namespace, f"{RECORDS},name={name}"):
        if (release := _release(cluster, newest[0])) is not None:
            return release
    return None


def _newest(cluster: Cluster, namespace: str | None, labels: str) -> list[Object]:
    """The metadata of each release's newest record."""
    newest: dict[tuple[str, str], Object] = {}
    for record in cluster.list("v1", "Secret", namespace, labels=labels, metadata_only=True):
        key = _key(record)
        if key not in newest or _number(record) > _number(newest[key]):
            newest[key] = record
    return [newest[key] for key in sorted(newest)]


def _key(record: Object) -> tuple[str, str]:
    """Name and namespace of a record's release."""
    return record["metadata"]["labels"]["name"], record["metadata"]["namespace"]


def _number(record: Object) -> int:
    return int(record["metadata"]["labels"]["version"])


def _release(cluster: Cluster, record: Object) -> Release | None:
    """The release of a record; None if that was superseded and pruned after it was listed."""
    metadata = record["metadata"]
    # Listed, because an identity that may list Secrets may not be allowed to get them.
    fields = f"metadata.name={metadata['name']}"
    secret = next(iter(cluster.list("v1", "Secret", metadata["namespace"], fields=fields)), None)
    if secret is None:
        return None
    content = decode_record(secret)
    chart: dict[str, Any] = content.get("chart", {}).get("metadata", {})
    labels: dict[str, str] = secret["metadata"]["labels"]
    modified = labels.get("modifiedAt") or labels.get("createdAt") or "0"
    return Release(
        name=labels["name"],
        namespace=metadata["namespace"],
        chart=str(chart.get("name", "")),
        chart_version=str(chart.get("version", "")),
        app_version=str(chart.get("appVersion") or ""),
        revision=_number(secret),
        status=labels.get("status", "unknown"),
        updated=datetime.fromtimestamp(int(modified), UTC),
        values=content.get("config") or {},
        labels={key: value for key, value in labels.items() if key not in _HELMS_OWN},
        writer=_writer(secret),
        target=str(content.get("namespace") or ""),
        place=_place(content),
    )


def _place(content: Mapping[str, Any]) -> str:
    for values in (content.get("config"), content.get("chart", {}).get("values")):
        if values and isinstance(place := values.get("namespace"), str) and place:
            return place
    return ""


def _writer(record: Object) -> str:
    entries: list[dict[str, Any]] = record["metadata"].get("managedFields") or []
    return next((str(entry.get("manager", "")) for entry in entries), "")


def revisions(cluster: Cluster, name: str, namespace: str) -> list[Revision]:
    """Every kept revision of a release, oldest first.

    Raises:
        ReleaseError: a record cannot be read.
    """
    labels = f"{RECORDS},name={name}"
    found = [read(secret) for secret in cluster.list("v1", "Secret", namespace, labels=labels)]
    return sorted(found, key=lambda revision: revision.number)


def deployed(cluster: Cluster, name: str, namespace: str) -> Revision | None:
    """The deployed revision of a release, or None."""
    labels = f"{RECORDS},name={name},status=deployed"
    found = [read(secret) for secret in cluster.list("v1", "Secret", namespace, labels=labels)]
    return max(found, key=lambda revision: revision.number, default=None)


def read(secret: Object) -> Revision:
    """Reads a revision's Secret.

    Raises:
        ReleaseError: it is not one of Helm's records.
    """
    content = decode_record(secret)
    try:
        chart: dict[str, Any] = content["chart"]["metadata"]
        return Revision(
            name=str(content["name"]),
            namespace=str(content["namespace"]),
            number=int(content["version"]),
            status=str(content["info"]["status"]),
            chart=str(chart["name"]),
            chart_version=str(chart["version"]),
            app_version=str(chart.get("appVersion") or ""),
            values=content.get("config") or {},
            defaults=content["chart"].get("values") or {},
            documents=tuple(_documents(str(content.get("manifest") or ""))),
            content=content,
        )
    except (KeyError, ValueError, TypeError, yaml.YAMLError):
        raise _unreadable(secret) from None


def decode_record(secret: Object) -> dict[str, Any]:
    """A release as Helm recorded it, decoded.

    Raises:
        ReleaseError: it cannot be read.
    """
    try:
        packed = base64.b64decode(base64.b64decode(secret["data"]["release"]))
        return orjson.loads(gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed)
    except (KeyError, ValueError, OSError, EOFError):
        raise _unreadable(secret) from None


def _unreadable(secret: Object) -> ReleaseError:
    return ReleaseError(
        name_of({"kind": "Secret", **secret}),
        expected="a release in Helm 3's format",
        found="something that cannot be read",
        remedy="Delete this Secret if `helm history` cannot read the release either.",
    )


def _documents(manifest: str) -> list[tuple[str, Object]]:
    texts = re.split(r"^---\s*$", manifest, flags=re.MULTILINE)
    return [(text, obj) for text in texts for obj in read_objects(text)]


def record(
    source: Revision, name: str, namespace: str, documents: Sequence[str], now: datetime
) -> Object:
    """The Secret of a first revision that takes over some of another release's objects.

    Helm then upgrades them with a real three-way merge, deletes what a newer chart no longer has,
    and can roll back to them.
    """
    content = dict(source.content)
    stamp = now.astimezone(UTC).isoformat()
    content |= {
        "name": name,
        "namespace": namespace,
        "version": 1,
        "manifest": "".join(f"---\n{text.strip()}\n" for text in documents),
        "hooks": [],
        "info": {
            "first_deployed": stamp,
            "last_deployed": stamp,
            "deleted": "",
            "description": f"Taken over from {source.namespace}/{source.name}",
            "status": "deployed",
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name(name, 1),
            "namespace": namespace,
            "labels": {
                "owner": "helm",
                "name": name,
                "status": "deployed",
                "version": "1",
                "modifiedAt": str(int(now.timestamp())),
            },
        },
        "type": SECRET_TYPE,
        "data": {"release": _packed(content)},
    }


def create(cluster: Cluster, secret: Object) -> None:
    """Creates a record; leaves an existing one as it is."""
    try:
        cluster.create(secret)
    except ApiError as error:
        if error.status != 409:
            raise


def forget(cluster: Cluster, name: str, namespace: str) -> None:
    """Deletes a release's records, the newest last, but none of its objects."""
    for revision in revisions(cluster, name, namespace):
        cluster.delete("v1", "Secret", secret_name(name, revision.number), namespace)


def keep_in_record(cluster: Cluster, ref: ReleaseRef, keeps: Collection[tuple[str, str]]) -> None:
    """Marks objects in a release's newest record, so that uninstalling it leaves them there.

    Helm decides what to keep by the manifest that it recorded, not by the live object.
    Source: helm `pkg/action/uninstall.go` (filterManifestsToKeep).

    Args:
        keeps: kind and name of each object.
    """
    found = revisions(cluster, ref.name, ref.namespace)
    if not found:
        return
    newest = max(found, key=lambda revision: revision.number)
    texts: list[str] = []
    for text, obj in newest.documents:
        metadata = obj["metadata"]
        annotations: dict[str, Any] = metadata.get("annotations") or {}
        if (obj["kind"], metadata["name"]) in keeps and annotations.get(RESOURCE_POLICY) != "keep":
            annotations[RESOURCE_POLICY] = "keep"
            metadata["annotations"] = annotations
            texts.append(yaml.safe_dump(obj, sort_keys=False))
        else:
            texts.append(text)
    manifest = "".join(f"---\n{text.strip()}\n" for text in texts)
    packed = _packed({**newest.content, "manifest": manifest})
    name = secret_name(ref.name, newest.number)
    cluster.merge("v1", "Secret", name, ref.namespace, {"data": {"release": packed}})


def _packed(content: Mapping[str, Any]) -> str:
    """A record's content encoded as in its Secret: JSON, gzipped, twice in base64."""
    packed = base64.b64encode(gzip.compress(json.dumps(content).encode()))
    return base64.b64encode(packed).decode()


def secret_name(name: str, number: int) -> str:
    return f"sh.helm.release.v1.{name}.v{number}"


def is_owned(obj: Mapping[str, Any], name: str, namespace: str) -> bool:
    """Whether an object's annotations say that it belongs to a release."""
    annotations: Mapping[str, str] = obj["metadata"].get("annotations") or {}
    return (annotations.get(RELEASE_NAME), annotations.get(RELEASE_NAMESPACE)) == (name, namespace)
