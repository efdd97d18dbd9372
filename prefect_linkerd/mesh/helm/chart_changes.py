"""What changes from one version of a chart to the next: values, CRDs and objects."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import yaml

from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.charts import Chart, folder_crds
from prefect_linkerd.mesh.helm.ownership import Owner, may_upgrade_crd, owner_of
from prefect_linkerd.mesh.helm.records import RESOURCE_POLICY, ReleaseRef
from prefect_linkerd.mesh.helm.values import Key, leaves
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object, name_of
from prefect_linkerd.mesh.linkerd.version_range import admits

CRD = "CustomResourceDefinition"
CRDS_CHART = "linkerd-crds"
HIDDEN = "(hidden)"

# Values


@dataclass(frozen=True)
class ValuesChange:
    """How a chart's default values differ from an older version's; keys as `a.b.c`.

    `renamed` pairs removed keys with the new ones that seem to replace them.
    """

    chart: str
    removed: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    added: tuple[str, ...]


def values_change(
    chart: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    known: Mapping[str, str] | None = None,
) -> ValuesChange:
    """Compares two charts' default values by their keys.

    A removed key counts as renamed if `known` says so, or if exactly one new key has the same last
    part and the same default.
    """
    before, after = dict(leaves(old)), dict(leaves(new))
    removed = [key for key in before if key not in after and not _is_below(key, after, new)]
    added = [key for key in after if key not in before]
    renamed: list[tuple[str, str]] = []
    for key in removed:
        name = (known or {}).get(".".join(key))
        if name is not None and tuple(name.split(".")) in after:
            renamed.append((".".join(key), name))
            continue
        alike = [new for new in added if new[-1] == key[-1] and after[new] == before[key]]
        if len(alike) == 1:
            renamed.append((".".join(key), ".".join(alike[0])))
    gone = {old for old, _ in renamed}
    return ValuesChange(
        chart,
        tuple(name for key in removed if (name := ".".join(key)) not in gone),
        tuple(renamed),
        tuple(".".join(key) for key in added),
    )


def _is_below(key: Key, after: Mapping[Key, Any], values: Mapping[str, Any]) -> bool:
    """Whether a chart accepts a key without a default: below an empty default, or a mapping."""
    if any(not after[key[:end]] for end in range(1, len(key)) if key[:end] in after):
        return True
    found: Any = values
    for part in key:
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = cast("Mapping[str, Any]", found)[part]
    return True


def lost_values(
    user: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[str, ...]:
    """The user's values that the old chart knows and the new one does not, and so would ignore.

    A value that neither knows is a key of a free-form mapping, or never had an effect; it is left
    out.
    """
    before, after = dict(leaves(old)), dict(leaves(new))
    return tuple(
        ".".join(key)
        for key, _ in leaves(user)
        if _is_known(key, before, old) and not _is_known(key, after, new)
    )


def _is_known(key: Key, found: Mapping[Key, Any], values: Mapping[str, Any]) -> bool:
    return key in found or _is_below(key, found, values)


# CRDs


def has_newer_crds(installed: tuple[str, str], wanted: tuple[str, str]) -> bool:
    """Whether the cluster's CRDs come from a newer chart than the wanted one, and so stay.

    Each argument is a chart's name and version; a first revision cut from 2.11's chart names that
    chart.

    Newer CRDs serve whatever an older control plane asks for, such as after an upgrade was rolled
    back; older ones would drop versions and fields that stored custom resources use.

    >>> has_newer_crds(("linkerd-crds", "1.8.0"), ("linkerd-crds", "1.6.1"))
    True
    >>> has_newer_crds(("linkerd2", "2.11.5"), ("linkerd-crds", "1.4.0"))
    False
    """
    (before, old), (after, new) = installed, wanted
    return before == after == CRDS_CHART and admits(f">{new}", old) is True


@dataclass(frozen=True)
class CrdChange:
    """What happens to a CRD; a `kept` one is in no chart any more, but stays in the cluster."""

    name: str
    change: Literal["create", "update", "kept"]
    served_added: tuple[str, ...] = ()
    served_removed: tuple[str, ...] = ()
    storage: str = ""
    """The old and the new storage version, as `v1alpha1 to v1`; empty if they are the same."""


def crd_changes(installed: Sequence[Object], wanted: Sequence[Object]) -> list[CrdChange]:
    """What an upgrade does to CRDs; those whose versions do not change are left out.

    Args:
        installed: the cluster's CRDs that belong to the mesh's releases.
        wanted: what the new charts render; other kinds are ignored.
    """
    before = {obj["metadata"]["name"]: obj for obj in installed if obj["kind"] == CRD}
    after = {obj["metadata"]["name"]: obj for obj in wanted if obj["kind"] == CRD}
    found: list[CrdChange] = []
    for name in sorted({*before, *after}):
        if name not in before:
            found.append(CrdChange(name, "create", tuple(_served(after[name]))))
        elif name not in after:
            found.append(CrdChange(name, "kept"))
        elif before[name]["spec"]["versions"] != after[name]["spec"]["versions"]:
            old, new = _served(before[name]), _served(after[name])
            stored = _storage(before[name]), _storage(after[name])
            found.append(
                CrdChange(
                    name,
                    "update",
                    tuple(version for version in new if version not in old),
                    tuple(version for version in old if version not in new),
                    " to ".join(stored) if stored[0] != stored[1] else "",
                )
            )
    return found


def _served(crd: Object) -> list[str]:
    return [version["name"] for version in crd["spec"]["versions"] if version.get("served")]


def _storage(crd: Object) -> str:
    return next((v["name"] for v in crd["spec"]["versions"] if v.get("storage")), "")


# Objects


@dataclass(frozen=True)
class ObjectChange:
    """What an upgrade does to an object: the fields it changes, and the difference as text.

    `refused` is the API server's message if it rejects the object. `taken_from` is the owner that
    this release would take the object from. `is_new` says whether the release did not contain the
    object before: Helm refuses to write such an object of another owner, and takes over any other.
    """

    subject: str
    change: Literal["create", "update", "delete"]
    fields: tuple[str, ...] = ()
    diff: str = field(default="", repr=False)
    refused: str = ""
    taken_from: Owner | None = None
    is_new: bool = False


def deletions(
    installed: Iterable[Object], wanted: Iterable[Object], namespace: str
) -> list[Object]:
    """The objects of a release's current manifest that its next one lacks.

    Helm deletes each of them, even if somebody else wrote it, unless the live object has the
    annotation `helm.sh/resource-policy: keep`. Source: helm `pkg/kube/client.go`, `Client.Update`.
    """
    kept = {_identity(obj, namespace) for obj in wanted if not _annotation(obj, "helm.sh/hook")}
    return [obj for obj in installed if _identity(obj, namespace) not in kept]


def deleted_secrets(
    installed: Iterable[Object], wanted: Iterable[Object], namespace: str
) -> list[Object]:
    """The Secrets among the objects that Helm would delete."""
    return [obj for obj in deletions(installed, wanted, namespace) if obj["kind"] == "Secret"]


def object_changes(
    cluster: Cluster,
    namespace: str,
    installed: Sequence[Object],
    wanted: Sequence[Object],
    own: Collection[ReleaseRef] | None = None,
    *,
    keeps_crds: bool = False,
) -> list[ObjectChange]:
    """What a release's upgrade would do, by a dry run on the API server; changes nothing.

    Args:
        namespace: the release's, which manifests leave out.
        installed: the objects of the release's current manifest.
        wanted: what the new chart renders.
        own: the releases that may own the objects; None skips the check of owners.
        keeps_crds: whether CRDs are marked as kept before Helm could delete them.
    """

    present = {_identity(obj, namespace): obj for obj in installed}
    # Hooks are created, run and deleted within the upgrade.
    wanted = [obj for obj in wanted if not _annotation(obj, "helm.sh/hook")]

    def change(obj: Object) -> ObjectChange | None:
        before = present.get(_identity(obj, namespace))
        return _object_change(cluster, namespace, obj, before, own)

    def gone(obj: Object) -> ObjectChange | None:
        return _deletion(cluster, _placed(cluster, namespace, obj))

    left_out = [
        obj
        for obj in deletions(installed, wanted, namespace)
        if not (keeps_crds and obj["kind"] == CRD)
    ]
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = [change for change in pool.map(change, wanted) if change is not None]
        found += [change for change in pool.map(gone, left_out) if change is not None]
    return sorted(found, key=lambda change: (change.change, change.subject))


def own_folder_crds(cluster: Cluster, chart: Chart) -> list[Object]:
    """The CRDs of a chart's `crds/` folder, except those that somebody else has installed."""
    found = folder_crds(chart)
    if not found:
        return []
    live = cluster.list("apiextensions.k8s.io/v1", CRD, metadata_only=True)
    theirs = {crd["metadata"]["name"] for crd in live if not may_upgrade_crd(crd)}
    return [crd for crd in found if crd["metadata"]["name"] not in theirs]


def _deletion(cluster: Cluster, obj: Object) -> ObjectChange | None:
    """The deletion of an object; None if it does not exist, or Helm keeps it."""
    api_version, kind, metadata = obj["apiVersion"], obj["kind"], obj["metadata"]
    live = None
    if cluster.serves(api_version, kind):
        live = cluster.get(api_version, kind, metadata["name"], metadata.get("namespace"))
    if live is None or _annotation(live, RESOURCE_POLICY) == "keep":
        return None
    return ObjectChange(name_of(live), "delete")


def _identity(obj: Object, namespace: str) -> tuple[str, str, str, str]:
    metadata = obj["metadata"]
    group = str(obj["apiVersion"]).rpartition("/")[0]
    return group, obj["kind"], metadata.get("namespace") or namespace, metadata["name"]


def _annotation(obj: Object, name: str) -> str:
    annotations: Mapping[str, str] = obj["metadata"].get("annotations") or {}
    return annotations.get(name, "")


def _placed(cluster: Cluster, namespace: str, obj: Object) -> Object:
    """An object with its namespace filled in, if its kind has one."""
    resource = cluster.resource(obj["apiVersion"], obj["kind"])
    if resource is None or not resource.namespaced or obj["metadata"].get("namespace"):
        return obj
    return {**obj, "metadata": {**obj["metadata"], "namespace": namespace}}


def _taken_from(live: Object, own: Collection[ReleaseRef], *, is_new: bool) -> Owner | None:
    """The owner that one of our own releases would take an object from, or None."""
    owner = owner_of(live)
    if owner.release in own and not owner.reconciles:
        return None
    # An object that the release already contains and no other owner claims is its own, whatever its
    # annotations.
    return owner if is_new or owner.release is not None or owner.reconciles else None


def _object_change(
    cluster: Cluster,
    namespace: str,
    obj: Object,
    present: Object | None,
    own: Collection[ReleaseRef] | None,
) -> ObjectChange | None:
    placed = _placed(cluster, namespace, obj)
    metadata, subject = placed["metadata"], name_of(placed)
    api_version, kind = placed["apiVersion"], placed["kind"]
    if not cluster.serves(api_version, kind):
        # The same upgrade installs its CRD, so the API server cannot check it yet.
        return ObjectChange(subject, "create")
    live = cluster.get(api_version, kind, metadata["name"], metadata.get("namespace"))
    try:
        if live is None:
            cluster.apply(placed, dry_run=True)
            return ObjectChange(subject, "create")
        patch = merge_patch(present or {}, obj)
        name, place = metadata["name"], metadata.get("namespace")
        after = cluster.merge(api_version, kind, name, place, patch, dry_run=True)
    except ApiError as error:
        if error.transient and error.status != 500:
            raise
        if live is None and error.status == 404 and kind in ("RoleBinding", "ClusterRoleBinding"):
            # For a client that may not bind every role the API server looks up the role's rules,
            # and the same upgrade creates that role.
            # Source: kubernetes `pkg/registry/rbac/rolebinding/policybased`.
            return ObjectChange(subject, "create")
        return ObjectChange(subject, "update" if live else "create", refused=error.found)
    before, after = comparable(live), comparable(after)
    fields = tuple(changed_fields(before, after))
    is_new = present is None
    taken_from = _taken_from(live, own, is_new=is_new) if own is not None else None
    if not fields and taken_from is None:
        return None
    # A CRD's schema has thousands of lines: its diff is too long to read.
    diff = "" if kind == CRD else unified(before, after)
    return ObjectChange(subject, "update", fields, diff, taken_from=taken_from, is_new=is_new)


def comparable(obj: Object) -> Object:
    """An object without the fields that the API server sets, and with secrets hidden."""
    shown = deepcopy(obj)
    shown.pop("status", None)
    for key in ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"):
        shown["metadata"].pop(key, None)
    if shown["kind"] == "Secret":
        for part in ("data", "stringData"):
            if part in shown:
                shown[part] = dict.fromkeys(shown[part], HIDDEN)
    for hook in shown.get("webhooks", []):
        # Charts generate a new CA at each rendering, which is not a deliberate change.
        hook.get("clientConfig", {}).pop("caBundle", None)
    if shown["kind"] == "APIService":
        shown["spec"].pop("caBundle", None)
    return shown


def changed_fields(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """The paths at which two objects differ, such as `spec.template.spec.containers[0].image`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        old, new = cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", after)
        for key in sorted({*old, *new}):
            below = f"{path}.{key}" if path else str(key)
            if key not in old or key not in new:
                yield below
            else:
                yield from changed_fields(old[key], new[key], below)
    elif isinstance(before, list) and isinstance(after, list):
        old_items, new_items = cast("list[Any]", before), cast("list[Any]", after)
        if len(old_items) != len(new_items):
            yield path
            return
        for index, (one, other) in enumerate(zip(old_items, new_items, strict=True)):
            yield from changed_fields(one, other, f"{path}[{index}]")
    elif before != after:
        yield path


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """The JSON merge patch (RFC 7386) that sets all of a manifest and drops what an older one had.

    Helm's upgrade does the same to an object, except for what others put into its lists.
    """
    patch: Object = {}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping):
            below: Object = cast("Object", before) if isinstance(before, Mapping) else {}
            patch[key] = merge_patch(below, cast("Object", value))
        else:
            patch[key] = value
    return {**patch, **{key: None for key in old if key not in new}}


_Dumper: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml's dumper if PyYAML has it: it takes a fifth of the time."""


class _Readable(_Dumper):
    """Writes multi-line strings as literal blocks, so files in a ConfigMap can be compared."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)  # pyright: ignore[reportUnknownMemberType]


_Readable.add_representer(str, _text)


def unified(before: Object, after: Object, limit: int = 120) -> str:
    """The unified diff of two objects' YAML, at most `limit` lines."""
    old, new = (yaml.dump(obj, Dumper=_Readable, width=100).splitlines() for obj in (before, after))
    lines = list(difflib.unified_diff(old, new, lineterm="", n=1))[2:]
    more = [f"... {len(lines) - limit} more lines"] if len(lines) > limit else []
    return "\n".join([*lines[:limit], *more])


def meaningful(changes: Iterable[ObjectChange]) -> list[ObjectChange]:
    """Drops updates of nothing but labels and annotations, which name a chart's version."""
    noise = ("metadata.labels", "metadata.annotations")
    return [
        change
        for change in changes
        if change.change != "update"
        or change.refused
        or change.taken_from
        or any(not path.startswith(noise) for path in change.fields)
    ]
