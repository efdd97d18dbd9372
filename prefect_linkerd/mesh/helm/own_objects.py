"""The objects that these flows make besides Helm's releases, written only if they are ours.

If somebody else's object is in the place of one, it is never written: it is used if the mesh can
use it as it is, and refused otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from prefect_linkerd.mesh.errors import OwnershipConflict
from prefect_linkerd.mesh.helm.cert_manager import CERT_MANAGER, certificate_for, is_theirs
from prefect_linkerd.mesh.helm.ownership import Owner, owner_of, refuse_theirs
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object, name_of

Advice = Callable[[Object], str]
"""What to do about somebody else's object; empty if the mesh can use it as it is."""


@dataclass(frozen=True)
class OwnObject:
    """An object that a flow makes, and what to do if somebody else already has it."""

    wanted: Object = field(repr=False)
    advice: Advice = field(repr=False)


@dataclass(frozen=True)
class Foreign:
    """Somebody else's object in the place of one of ours, and what to do about it.

    The remedy is empty if the mesh can use the object as it is.
    """

    subject: str
    owner: Owner
    remedy: str


def always(remedy: str) -> Advice:
    """Advice that never accepts somebody else's object, whatever it contains."""
    return lambda _: remedy


def unless_matches(wanted: Mapping[str, Any], remedy: str) -> Advice:
    """Advice that accepts somebody else's object only if it contains what is wanted."""
    return lambda found: remedy if any(differences(wanted, found)) else ""


def differences(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """Fields of a wanted object that another lacks or sets otherwise, as `spec.secretName: name`.

    Fields that only the other one has are no difference.

    >>> list(differences({"spec": {"isCA": True}}, {"spec": {"isCA": False, "duration": "1h"}}))
    ['spec.isCA: true']
    """
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        have = cast("Mapping[str, Any]", found)
        for key, value in cast("Mapping[str, Any]", wanted).items():
            yield from differences(value, have.get(key), f"{path}.{key}" if path else key)
        return
    if isinstance(wanted, list) and isinstance(found, list):
        items, others = cast("list[Any]", wanted), cast("list[Any]", found)
        if len(items) == len(others):
            for number, (one, other) in enumerate(zip(items, others, strict=True)):
                yield from differences(one, other, f"{path}[{number}]")
            return
    if wanted != found:
        yield f"{path}: {str(wanted).lower() if isinstance(wanted, bool) else wanted}"


def foreign(own: OwnObject, found: Object | None) -> Foreign | None:
    """Somebody else's object in the place of one of ours; None if these flows may write it."""
    if found is None or not is_theirs(found):
        return None
    return Foreign(name_of(found), owner_of(found), own.advice(found))


def find(cluster: Cluster, wanted: Object) -> Object | None:
    """What is in the place of an object; None also if its kind is not served.

    A Certificate's place is the Secret that it writes: somebody else's Certificate for the same
    Secret may have any name.
    """
    metadata = wanted["metadata"]
    api_version, kind, namespace = wanted["apiVersion"], wanted["kind"], metadata.get("namespace")
    if (api_version, kind) == (CERT_MANAGER, "Certificate"):
        found = list(cluster.list(api_version, kind, namespace))
        keeper = certificate_for(found, wanted["spec"]["secretName"])
        if keeper is not None and is_theirs(keeper):
            return keeper
        return next((obj for obj in found if obj["metadata"]["name"] == metadata["name"]), None)
    return cluster.get(api_version, kind, metadata["name"], namespace)


def read_foreign(cluster: Cluster, objects: Iterable[OwnObject]) -> list[Foreign]:
    """Somebody else's objects that are in the place of ours and cannot be used."""
    judged = (foreign(own, find(cluster, own.wanted)) for own in objects)
    return [each for each in judged if each is not None and each.remedy]


def ensure_own(cluster: Cluster, objects: Sequence[OwnObject]) -> list[Object]:
    """Applies each object, or uses somebody else's in its place; checks all of them first.

    Returns: the objects that are used.

    Raises:
        OwnershipConflict: somebody else's is in the way; nothing was written.
    """
    there = [find(cluster, own.wanted) for own in objects]
    for own, found in zip(objects, there, strict=True):
        theirs = foreign(own, found)
        if theirs is not None and theirs.remedy:
            raise conflict(theirs)
    used: list[Object] = []
    for own, found in zip(objects, there, strict=True):
        if found is not None and is_theirs(found):
            used.append(found)
        else:
            cluster.apply(own.wanted)
            used.append(own.wanted)
    return used


def conflict(theirs: Foreign) -> OwnershipConflict:
    """The error that refuses to write somebody else's object."""
    return refuse_theirs(theirs.subject, theirs.owner, theirs.remedy)
