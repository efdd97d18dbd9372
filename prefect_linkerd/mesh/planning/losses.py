"""What a mesh would lose in a run of bootstrap or upgrade: pure functions of what was read.

Compares each release's deployed revision (its manifest and values) with what the run would make of
it. Nothing that somebody set or created is lost without a finding, and a finding is an error until
a person accepts its id. Irreparable deletions cannot be accepted: of the issuer's Secret, the trust
bundle's ConfigMap, a namespace or a CRD.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.helm.chart_changes import ObjectChange
from prefect_linkerd.mesh.helm.charts import ChartName
from prefect_linkerd.mesh.helm.records import Revision
from prefect_linkerd.mesh.helm.safety_values import UnsafeValue
from prefect_linkerd.mesh.helm.values import FIELDS, SAFETY, Key, Values, leaves, merge
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET, TRUST_ROOTS, bundle_of
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.linkerd.facts import CONTROL_PLANE_CHARTS
from prefect_linkerd.mesh.pki.certificates import fingerprints
from prefect_linkerd.mesh.planning.preflight import Finding

HIDDEN = "(hidden)"
VERSIONS: tuple[Key, ...] = (
    ("proxy", "image", "version"),
    ("linkerdVersion",),
    ("controllerImageVersion",),
    ("policyController", "image", "version"),
    ("debugContainer", "image", "version"),
)
"""Values of Linkerd's charts that default to Linkerd's own version."""

_ABSENT: Any = object()
_SECRET = re.compile(
    r"(keypem|(private|api|access)[-_.]?key|passw(or)?d|token|secret|credentials?)$", re.IGNORECASE
)


@dataclass(frozen=True)
class ReleaseChange:
    """A release as it is and as a run would make it.

    `before` is its deployed revision, and `is_ours` says whether these flows made it. `defaults`
    are the next chart's default values, `values` the next revision's, and `extra` the extra values
    of the configuration among these. `computed` are the values that the configuration alone gives
    the current chart; `own_keys` are the keys that these flows compute under some configuration.
    `objects` are the changes of objects, `rendered` the objects of the next manifest, and `unsafe`
    the extra values that contradict the mesh.
    """

    chart: ChartName
    version: str
    before: Revision | None
    is_ours: bool
    defaults: Values = field(repr=False)
    values: Values = field(repr=False)
    extra: Values = field(repr=False)
    computed: Values = field(repr=False)
    own_keys: frozenset[Key] = frozenset()
    objects: tuple[ObjectChange, ...] = ()
    rendered: tuple[Object, ...] = field(default=(), repr=False)
    unsafe: tuple[UnsafeValue, ...] = ()


@dataclass(frozen=True)
class Pin:
    """A workload's pod template or a namespace whose annotation keeps its proxies at a version."""

    subject: str
    version: str


def losses(changes: Sequence[ReleaseChange], trusted: str) -> list[Finding]:
    """Findings about everything that a mesh or its owner would lose in a run.

    Args:
        trusted: the PEM of the trust anchors that the mesh trusts now.
    """
    found = [
        finding
        for change in changes
        for finding in (*_unsafe(change), *_domains(change), *_lost(change), *_deleted(change))
    ]
    return [*found, *_owners(changes), *_trust_bundle(changes, trusted)]


# Values


def lost_values(change: ReleaseChange) -> dict[Key, Any]:
    """The values that a release's user set and that its next revision would not have.

    Leaves out values that change nothing (the next chart's default is the same), that the
    configuration sets differently, and that these flows computed. `SAFETY` values have findings of
    their own.
    """
    before = change.before
    if before is None:
        return {}
    after = merge(change.defaults, change.values)
    apart = {*SAFETY.get(before.chart, ()), *SAFETY.get(change.chart, ())}
    return {
        key: value
        for key, value in leaves(before.values)
        if key not in apart
        and not _is_empty_default(value, _at(before.defaults, key))
        and not _is_version(before, key, value)
        and not _overrides(change.extra, key)
        and _at(change.computed, key) != value
        and not (change.is_ours and key in change.own_keys)
        and _at(after, key) != value
    }


def _at(values: Mapping[str, Any], key: Key) -> Any:
    found: Any = values
    for part in key:
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = cast("Mapping[str, Any]", found)[part]
    return found


def _is_empty_default(value: Any, default: Any) -> bool:
    """Whether a value is empty and so is its default, or there is no default."""
    return value in (None, {}) and default in (_ABSENT, None, {})


def _is_version(before: Revision, key: Key, value: Any) -> bool:
    """Whether a value is the release's own Linkerd version, which an upgrade is meant to change."""
    return key in VERSIONS and value == before.app_version


def _overrides(extra: Mapping[str, Any], key: Key) -> bool:
    """Whether the configuration's extra values set a key, or replace a mapping above it."""
    place: Any = extra
    for part in key:
        if not isinstance(place, Mapping):
            return True
        if part not in place:
            return False
        place = cast("Mapping[str, Any]", place)[part]
    return True


def _lost(change: ReleaseChange) -> Iterator[Finding]:
    lost = lost_values(change)
    if not lost or change.before is None:
        return
    names = ", ".join(map(dotted, lost))
    subject = f"Helm release {change.before.namespace}/{change.before.name}"
    yield Finding(
        "values-lost",
        "error",
        subject,
        f"it would lose values that the configuration lacks: {names}",
        _how_to_keep(change.chart, lost),
        acceptable=True,
    )


def _how_to_keep(chart: str, lost: Mapping[Key, Any]) -> str:
    if chart not in FIELDS:
        return f"Accept it: {chart} takes no extra values."
    kept: Values = {}
    for key, value in lost.items():
        kept = merge(kept, nested(key, shown(value, key[-1])))
    text = nested((*FIELDS[chart].split("."), "inline"), kept)
    line = yaml.safe_dump(text, default_flow_style=True, width=2**20, sort_keys=False).strip()
    hidden = " (`helm get values` shows what is hidden here)" if HIDDEN in line else ""
    return f"Keep them by adding to the configuration{hidden}: {line}"


def dotted(key: Key) -> str:
    """A key as `a.b.c`; a part that contains dots is quoted.

    >>> dotted(("nodeSelector", "kubernetes.io/os"))
    'nodeSelector."kubernetes.io/os"'
    """
    return ".".join(f'"{part}"' if "." in part else part for part in key)


def nested(key: Key, value: Any) -> Values:
    """A value nested in a mapping for each part of its key."""
    found: Any = value
    for part in reversed(key):
        found = {part: found}
    return cast("Values", found)


def shown(value: Any, name: str = "") -> Any:
    """A value in which whatever looks like a secret, by name or content, is hidden."""
    match value:
        case str():
            is_secret = bool(value) and (_SECRET.search(name) or "PRIVATE KEY" in value)
            return HIDDEN if is_secret else value
        case dict():
            mapping = cast("dict[str, Any]", value)
            # An environment variable's `name` says whether its `value` is secret.
            named = str(mapping.get("name", ""))
            return {
                key: shown(each, named if key == "value" else str(key))
                for key, each in mapping.items()
            }
        case list():
            return [shown(each, name) for each in cast("list[Any]", value)]
        case _:
            return value


def _unsafe(change: ReleaseChange) -> Iterator[Finding]:
    for each in change.unsafe:
        yield Finding("safety-values", "error", each.place, str(each), each.remedy)


def _domains(change: ReleaseChange) -> Iterator[Finding]:
    """Domains of the installed control plane that differ from the configuration's."""
    before = change.before
    if before is None or change.chart not in CONTROL_PLANE_CHARTS:
        return
    have, want = merge(before.defaults, before.values), merge(change.defaults, change.values)
    for key, setting in (
        ("clusterDomain", "cluster_domain"),
        ("identityTrustDomain", "trust_domain"),
    ):
        old, new = _domain(have, key), _domain(want, key)
        if old and new and old != new:
            yield Finding(
                "domains",
                "error",
                f"Helm release {before.namespace}/{before.name}",
                f"its {key} would change from {old} to {new}: proxies of the two neither trust nor "
                "find each other",
                f"Set {setting} to {old}.",
                acceptable=True,
            )


def _domain(values: Mapping[str, Any], key: str) -> str:
    # Charts default an empty trust domain to the cluster's domain.
    return str(values.get(key) or values.get("clusterDomain") or "") if key in values else ""


def pinned_versions(
    values: Mapping[str, Any], extra: Mapping[str, Any], target: str
) -> dict[Key, str]:
    """The versions in a Linkerd chart's extra values that differ from the target version."""
    return {
        key: str(value)
        for key in VERSIONS
        if (value := _at(extra, key)) not in (_ABSENT, None, "", target)
        and _at(values, key) == value
    }


def pins(
    changes: Sequence[ReleaseChange], workloads: Iterable[Pin], source: str, target: str
) -> list[Finding]:
    """Proxies and images that would stay at a version other than the upgrade's target."""
    found: list[Finding] = []
    for change in changes:
        pinned = pinned_versions(change.values, change.extra, target)
        if not change.chart.startswith("linkerd") or not pinned:
            continue
        names = ", ".join(f"{dotted(key)} {version}" for key, version in pinned.items())
        found.append(
            Finding(
                "pinned-version",
                "error",
                f"extra values of {change.chart}",
                f"{names} would stay pinned, not move to {target}",
                "Remove it, or accept that it stays.",
                acceptable=True,
            )
        )
    by_version: dict[str, list[str]] = {}
    for pin in workloads:
        if pin.version != target:
            by_version.setdefault(pin.version, []).append(pin.subject)
    for version, subjects in sorted(by_version.items()):
        found.append(
            Finding(
                "pinned-proxy",
                "error",
                some(subjects),
                f"annotation config.linkerd.io/proxy-version keeps its proxies at {version}: it is "
                f"not restarted and stays at that version while the mesh moves from {source} to "
                f"{target}",
                "Remove the annotation, or accept that it stays.",
                acceptable=True,
            )
        )
    return found


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


# Objects


def _deleted(change: ReleaseChange) -> Iterator[Finding]:
    """Objects with content that Helm would delete because the next manifest lacks them."""
    for each in change.objects:
        if each.change != "delete":
            continue
        kind, _, rest = each.subject.partition("/")
        name = rest.rpartition("/")[2]
        if kind == "Secret" and name == ISSUER_SECRET:
            yield _deletion(
                each.subject,
                "the issuer would be gone, and no proxy would get a certificate",
                f"If it is of type kubernetes.io/tls: {_keep(each.subject)}",
            )
        elif kind == "ConfigMap" and name == TRUST_ROOTS:
            yield _deletion(
                each.subject,
                "the trust bundle would be gone until somebody recreates it",
                _keep(each.subject),
            )
        elif kind in ("Namespace", "CustomResourceDefinition"):
            yield _deletion(
                each.subject, "everything in it would be deleted as well", _keep(each.subject)
            )
        elif kind in ("Secret", "PersistentVolumeClaim"):
            yield _deletion(each.subject, "its content would be lost", _keep(each.subject), True)


def _deletion(subject: str, why: str, remedy: str, acceptable: bool = False) -> Finding:
    message = f"Helm would delete it, because the next manifest of its release lacks it: {why}"
    return Finding("deleted", "error", subject, message, remedy, acceptable)


def _keep(subject: str) -> str:
    kind, *place, name = subject.split("/")
    namespace = f" -n {place[0]}" if place else ""
    return (
        f"Keep it by: kubectl annotate{namespace} {kind.lower()} {name} "
        "helm.sh/resource-policy=keep"
    )


def _owners(changes: Sequence[ReleaseChange]) -> Iterator[Finding]:
    for is_refused in (True, False):
        by_owner: dict[str, list[str]] = {}
        for change in changes:
            for each in change.objects:
                owner = each.taken_from
                if owner is not None and (owner.reconciles or each.is_new) == is_refused:
                    by_owner.setdefault(str(owner), []).append(each.subject)
        for owner, subjects in sorted(by_owner.items()):
            yield _owner(owner, subjects, is_refused)


def _owner(owner: str, subjects: Sequence[str], is_refused: bool) -> Finding:
    if any(subject.endswith(f"/{TRUST_ROOTS}") for subject in subjects):
        remedy = (
            "Set identity.externalCA: true in the extra values (values.inline), so that the chart "
            "leaves the trust bundle to its owner."
        )
    elif is_refused:
        remedy = "Turn it off in the chart's values, or have its owner delete it."
    else:
        remedy = "Take it out of its owner's release first, or accept that it changes hands."
    return Finding(
        "owner",
        "error",
        some(subjects),
        f"it belongs to {owner}, but the mesh's release would write it",
        remedy,
        acceptable=not is_refused,
    )


def _trust_bundle(changes: Sequence[ReleaseChange], trusted: str) -> Iterator[Finding]:
    for change in changes:
        roots = next(
            (
                obj
                for obj in change.rendered
                if (obj["kind"], obj["metadata"]["name"]) == ("ConfigMap", TRUST_ROOTS)
            ),
            None,
        )
        if roots is None or not trusted.strip():
            continue
        before = _anchors(trusted)
        after = _anchors(bundle_of(roots))
        if before == after:
            continue
        lost, gained = sorted(before - after), sorted(after - before)
        text = [*(f"loses {each}" for each in lost), *(f"gains {each}" for each in gained)]
        yield Finding(
            "trust-bundle",
            "error",
            f"ConfigMap/{TRUST_ROOTS}",
            f"the trust bundle would change: it {', '.join(text)}",
            "Use rotate_anchor to change the anchors of a running mesh: it restarts the workloads "
            "that need it.",
            acceptable=True,
        )


def _anchors(pem: str) -> frozenset[str]:
    try:
        return fingerprints(pem, TRUST_ROOTS)
    except MeshError:
        return frozenset()
