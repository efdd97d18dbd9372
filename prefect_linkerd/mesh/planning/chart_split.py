"""Splits the one chart of Linkerd 2.11 into the two of 2.12, without deleting anything.

Linkerd's own guide moves the ownership annotations and then installs both charts. Helm would merge
such adopted objects without knowing how the old chart had rendered them. Here each new release gets
a first revision that holds the old chart's objects instead, so that Helm upgrades them with a real
three-way merge and can roll back to them.

The cluster shows how far a split has come: it is in progress while both the old release's record
and a new release's exist, and finished when the old record is gone.

Source: https://linkerd.io/2.12/tasks/upgrade/#upgrade-notice-stable-2120
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from prefect_linkerd.mesh.errors import ApiError, ReleaseError
from prefect_linkerd.mesh.helm.records import (
    RELEASE_NAME,
    RELEASE_NAMESPACE,
    RESOURCE_POLICY,
    Revision,
    create,
    deployed,
    forget,
    is_owned,
    record,
    revisions,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object, name_of

CRDS = "linkerd-crds"
CONTROL_PLANE = "linkerd-control-plane"
OLD = "linkerd2"
CRD = "CustomResourceDefinition"


@dataclass(frozen=True)
class Split:
    """What happens to the old release's objects, each with its text from the manifest.

    `new_crds` are the names of all CRDs of the new chart, some of which an earlier attempt may
    have created; `left` are CRDs that the new charts do not have (TrafficSplit): they stay, without
    an owner.
    """

    new_crds: tuple[str, ...]
    crds: tuple[tuple[str, Object], ...] = field(repr=False)
    control_plane: tuple[tuple[str, Object], ...] = field(repr=False)
    left: tuple[Object, ...]


def decide_split(old: Revision, new_crds: Collection[str], served: Collection[str]) -> Split:
    """Decides which new release takes over which of the old one's objects.

    Args:
        new_crds: names of the CRDs in the new `linkerd-crds`.
        served: the API versions that the cluster serves. Helm refuses a manifest with others.
    """
    documents = [item for item in old.documents if item[1].get("apiVersion") in served]
    crds = [item for item in documents if item[1]["kind"] == CRD]
    return Split(
        new_crds=tuple(sorted(new_crds)),
        crds=tuple(item for item in crds if item[1]["metadata"]["name"] in new_crds),
        # Neither release contains the namespace: uninstalling one must not delete it.
        control_plane=tuple(
            item for item in documents if item[1]["kind"] not in (CRD, "Namespace")
        ),
        left=tuple(obj for _, obj in crds if obj["metadata"]["name"] not in new_crds),
    )


def take_over(
    cluster: Cluster, old: Revision, split: Split, namespace: str, now: datetime
) -> list[str]:
    """Gives the new releases their first revisions and the ownership of the old one's objects.

    Skips what is already done. Changes nothing of an object except its ownership.
    """
    moved: list[str] = []
    for name, documents in ((CRDS, split.crds), (CONTROL_PLANE, split.control_plane)):
        if not revisions(cluster, name, namespace):
            texts = [text for text, _ in documents]
            create(cluster, record(old, name, namespace, texts, now))
        objects = [obj for _, obj in documents]
        if name == CRDS:
            objects = [_crd(crd) for crd in split.new_crds]
        moved += _move(cluster, objects, (old.name, old.namespace), (name, namespace))
    return moved


def finish(cluster: Cluster, old: Revision, split: Split) -> None:
    """Deletes the old release's records once the new releases own everything.

    The CRDs that neither new chart has lose their ownership annotations.
    """
    for obj in split.left:
        _annotate(cluster, obj, None)
    forget(cluster, old.name, old.namespace)


def restore(
    cluster: Cluster,
    owner: tuple[str, str],
    left: Iterable[str],
    namespace: str,
    now: datetime,
) -> None:
    """Undoes `finish`: recreates the old release's record from the new ones' first revisions.

    Going back is possible until the upgrade's own record is deleted. Does nothing if the old
    release's record exists.

    Args:
        owner: the old release's name and namespace.
        left: the names of the CRDs that only the old release had.
        namespace: the new releases' namespace.

    Raises:
        ReleaseError: a first revision no longer exists.
    """
    if deployed(cluster, *owner) is not None:
        return
    first = [_first(cluster, name, namespace) for name in (CRDS, CONTROL_PLANE)]
    for crd in left:
        _annotate(cluster, _crd(crd), owner)
    texts = [text for revision in first for text, _ in revision.documents]
    create(cluster, record(first[-1], *owner, texts, now))


def _first(cluster: Cluster, name: str, namespace: str) -> Revision:
    found = next((r for r in revisions(cluster, name, namespace) if r.number == 1), None)
    if found is None or found.chart != OLD:
        raise ReleaseError(
            f"Helm release {namespace}/{name}",
            expected=f"revision 1 to hold the objects of {OLD}, for going back",
            found="that it no longer exists" if found is None else f"the objects of {found.chart}",
            remedy="Run upgrade again without go_back to finish the upgrade.",
        )
    return found


def give_back(cluster: Cluster, owner: tuple[str, str], namespace: str) -> list[str]:
    """Makes the old release (name, namespace) the owner again, also of the new charts' CRDs.

    First roll the new control plane's release back to its first revision, so that the objects are
    the old chart's again.
    """
    moved: list[str] = []
    for name in (CONTROL_PLANE, CRDS):
        current = deployed(cluster, name, namespace)
        if current is not None:
            moved += _move(cluster, current.manifest, (name, namespace), owner)
        forget(cluster, name, namespace)
    return moved


def _crd(name: str) -> Object:
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": CRD, "metadata": {"name": name}}


def _move(
    cluster: Cluster, objects: Iterable[Object], source: tuple[str, str], target: tuple[str, str]
) -> list[str]:
    def move(obj: Object) -> str | None:
        metadata = obj["metadata"]
        place = metadata.get("namespace") or source[1]
        found = cluster.get(obj["apiVersion"], obj["kind"], metadata["name"], place)
        if found is None or not is_owned(found, *source):
            return None
        _annotate(cluster, found, target)
        return name_of(found)

    with ThreadPoolExecutor(max_workers=8) as pool:
        return sorted(name for name in pool.map(move, objects) if name)


def _annotate(cluster: Cluster, obj: Object, owner: tuple[str, str] | None) -> None:
    name, namespace = owner or (None, None)
    annotations = {RELEASE_NAME: name, RELEASE_NAMESPACE: namespace}
    metadata = obj["metadata"]
    try:
        cluster.merge(
            obj["apiVersion"],
            obj["kind"],
            metadata["name"],
            metadata.get("namespace"),
            {"metadata": {"annotations": annotations}},
        )
    except ApiError as error:
        if error.status != 404:
            raise


def keep_crds(cluster: Cluster, installed: Iterable[Object], wanted: Iterable[Object]) -> list[str]:
    """Marks every CRD that an upgrade would delete, so that Helm keeps it; returns their names.

    Deleting a CRD deletes all of its custom resources.
    """
    names = {obj["metadata"]["name"] for obj in wanted if obj["kind"] == CRD}
    kept = [obj for obj in installed if obj["kind"] == CRD and obj["metadata"]["name"] not in names]
    for obj in kept:
        patch = {"metadata": {"annotations": {RESOURCE_POLICY: "keep"}}}
        cluster.merge(obj["apiVersion"], CRD, obj["metadata"]["name"], None, patch)
    return [obj["metadata"]["name"] for obj in kept]
