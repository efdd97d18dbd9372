"""From the one chart of Linkerd 2.11 to the two of 2.12, without deleting anything.

Linkerd's own guide moves the ownership annotations and then installs both charts. Helm would merge
such adopted objects without knowing what the old chart had made of them. Here each new release gets
a first revision that holds the old chart's objects instead, so that Helm upgrades them by a real
three-way merge, and can go back to them.

How far a split has come is seen in the cluster: it is begun while both the old release's record
and a new release's are there, and over when the old record is gone.

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
    """What becomes of the objects of the old release; texts as in its manifest.

    `new_crds` are the names of all CRDs of the new chart, which an attempt before this one may
    have made; `left` are CRDs that the new charts do not have (TrafficSplit): they stay, and
    have no owner.
    """

    new_crds: tuple[str, ...]
    crds: tuple[tuple[str, Object], ...] = field(repr=False)
    control_plane: tuple[tuple[str, Object], ...] = field(repr=False)
    left: tuple[Object, ...]


def decide_split(old: Revision, new_crds: Collection[str], served: Collection[str]) -> Split:
    """Which new release takes over which object of the old one.

    Args:
        new_crds: names of the CRDs that the new `linkerd-crds` has.
        served: the API versions of the cluster. Helm refuses a manifest with others.
    """
    documents = [item for item in old.documents if item[1].get("apiVersion") in served]
    crds = [item for item in documents if item[1]["kind"] == CRD]
    return Split(
        new_crds=tuple(sorted(new_crds)),
        crds=tuple(item for item in crds if item[1]["metadata"]["name"] in new_crds),
        # The namespace is in no release: uninstalling one must not delete it.
        control_plane=tuple(
            item for item in documents if item[1]["kind"] not in (CRD, "Namespace")
        ),
        left=tuple(obj for _, obj in crds if obj["metadata"]["name"] not in new_crds),
    )


def take_over(
    cluster: Cluster, old: Revision, split: Split, namespace: str, now: datetime
) -> list[str]:
    """Gives the new releases their first revisions and the ownership of the old one's objects.

    What is done already is left. Changes no object but for its ownership.
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
    """Takes the old release's record away, once everything is the new releases'."""
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
    """Undoes `finish`: makes the old release's record again, of the new ones' first revisions.

    The way back is open until the upgrade's own record is gone. Nothing happens where the old
    release's record is there.

    Args:
        owner: the old release's name and namespace.
        left: the names of the CRDs that only the old release had.
        namespace: of the new releases.

    Raises:
        ReleaseError: a first revision is not kept any more.
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
            expected=f"revision 1 with the objects of {OLD}, to go back to",
            found="none any more" if found is None else f"one of {found.chart}",
            remedy="Run upgrade again without go_back, which finishes it.",
        )
    return found


def give_back(cluster: Cluster, owner: tuple[str, str], namespace: str) -> list[str]:
    """Makes the old release (name, namespace) the owner again, of the new charts' CRDs as well.

    The objects must be those of the old chart again: roll the new control plane's release back to
    its first revision before.
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
    """Marks every CRD that Helm would delete with an upgrade, so that it does not.

    A CRD that is deleted takes every custom resource with it. Those that were marked, by name.
    """
    names = {obj["metadata"]["name"] for obj in wanted if obj["kind"] == CRD}
    kept = [obj for obj in installed if obj["kind"] == CRD and obj["metadata"]["name"] not in names]
    for obj in kept:
        patch = {"metadata": {"annotations": {RESOURCE_POLICY: "keep"}}}
        cluster.merge(obj["apiVersion"], CRD, obj["metadata"]["name"], None, patch)
    return [obj["metadata"]["name"] for obj in kept]
