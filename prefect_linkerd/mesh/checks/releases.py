"""Whether the mesh's Helm releases exist, are complete, and match the configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.errors import MeshError
from prefect_linkerd.mesh.helm.chart_changes import has_newer_crds
from prefect_linkerd.mesh.helm.client import PENDING, DesiredRelease
from prefect_linkerd.mesh.helm.ownership import decide, owner_of_release
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.helm.values import merge
from prefect_linkerd.mesh.pki.certificates import fingerprints
from prefect_linkerd.mesh.planning.desired import differing_keys
from prefect_linkerd.mesh.snapshot.mesh import Snapshot

BUNDLE = "identityTrustAnchorsPEM"
TRUST_DOMAIN = "identityTrustDomain"

releases = Category[Snapshot]("pl-releases", "beyond")


@releases.check("pl-release-pending", "no Helm release is left pending")
def release_pending(snapshot: Snapshot) -> Problems:
    for release in snapshot.releases:
        if release.status in (*PENDING, "uninstalling"):
            yield Problem(
                _subject(release),
                f"its revision {release.revision} has been {release.status} since "
                f"{release.updated:%Y-%m-%d %H:%M} UTC",
                "Unless something is working on it now, "
                + _unless_theirs(snapshot, release, "run bootstrap, which finishes it."),
            )


@releases.check("pl-release-failed", "no Helm release has failed")
def release_failed(snapshot: Snapshot) -> Problems:
    for release in snapshot.releases:
        if release.status == "failed":
            yield Problem(
                _subject(release),
                f"its revision {release.revision} failed on {release.updated:%Y-%m-%d %H:%M} UTC",
                "Fix what `helm history` names, then "
                + _unless_theirs(snapshot, release, "run bootstrap again."),
            )


@releases.check("pl-release-exists", "every configured chart is installed", "warning")
def release_exists(snapshot: Snapshot) -> Problems:
    there = {(release.namespace, release.name) for release in snapshot.releases}
    for wanted in _wanted(snapshot):
        owner = next(
            (o for p, o in snapshot.installed.owners.items() if p == wanted.chart.name), None
        )
        # Argo CD and kubectl create no release, and none is needed.
        is_helms = owner is None or owner.release is not None
        if is_helms and (wanted.namespace, wanted.name) not in there:
            yield Problem(
                f"Helm release {wanted.namespace}/{wanted.name}",
                "it does not exist, though the configuration has its chart"
                if owner is None
                else f"no record of it can be read, and its objects belong to {owner}",
                "Run bootstrap, or turn the part off in the configuration."
                if owner is None
                else "Let this identity list the Secrets of the namespace that has its records.",
            )


@releases.check("pl-release-chart", "releases have the configured charts and versions", "warning")
def release_chart(snapshot: Snapshot) -> Problems:
    for release, wanted in _pairs(snapshot):
        have, want = (
            (release.chart, release.chart_version),
            (wanted.chart.name, wanted.chart.version),
        )
        if have != want and not has_newer_crds(have, want):
            yield Problem(
                _subject(release),
                f"its chart is {' '.join(have)} instead of {' '.join(want)}",
                "Set the configured version to the installed one, or "
                + _unless_theirs(snapshot, release, "run the upgrade."),
            )


@releases.check("pl-release-values", "releases have the configured values", "warning")
def release_values(snapshot: Snapshot) -> Problems:
    for wanted in _wanted(snapshot):
        for unsafe in wanted.unsafe:
            yield Problem(unsafe.place, str(unsafe), unsafe.remedy)
    for release, wanted in _pairs(snapshot):
        # Another chart version has other values; `pl-release-chart` reports it.
        if release.values is None or release.chart_version != wanted.chart.version:
            continue
        # A value left out equals one set to the chart's default.
        have, want = (merge(wanted.chart.defaults, v) for v in (release.values, wanted.values))
        keys = differing_keys(_comparable(have), _comparable(want))
        if keys:
            yield Problem(
                _subject(release),
                f"its values differ from the configuration's in {', '.join(keys[:20])}"
                + (f" and {len(keys) - 20} more" if len(keys) > 20 else ""),
                "Write the change into the configuration, or "
                + _unless_theirs(snapshot, release, "run bootstrap to restore them."),
            )


def _unless_theirs(snapshot: Snapshot, release: Release, remedy: str) -> str:
    """The remedy; for a release that another owner manages, the advice to change it there."""
    installed = snapshot.installed
    owners = (installed.owners[part] for part, r in installed.releases.items() if r == release)
    of_mesh = next(owners, None)
    owner = of_mesh or owner_of_release(release)
    is_theirs = decide(owner, "mesh" if of_mesh else "shared") == "theirs"
    return f"change it where it is managed: it belongs to {owner}." if is_theirs else remedy


def _subject(release: Release) -> str:
    return f"Helm release {release.namespace}/{release.name}"


def _wanted(snapshot: Snapshot) -> tuple[DesiredRelease, ...]:
    try:
        return snapshot.wanted
    except MeshError as error:
        # An unreachable chart source is not the mesh's fault; linkerd's version check reports it.
        raise Skip(f"there is nothing to compare with: {error}") from None


def _pairs(snapshot: Snapshot) -> Iterator[tuple[Release, DesiredRelease]]:
    there = {(release.namespace, release.name): release for release in snapshot.releases}
    for wanted in _wanted(snapshot):
        release = there.get((wanted.namespace, wanted.name))
        if release is not None and release.status != "uninstalled":
            yield release, wanted


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values to compare: the trust bundle as a set of certificates, strings trimmed.

    So neither the bundle's order nor white space, such as a PEM file's last newline, counts.
    """
    trimmed = {key: _trimmed(value) for key, value in values.items()}
    if TRUST_DOMAIN in values:
        # If empty, it is the cluster's domain. Source: linkerd2 `charts/partials`.
        trimmed[TRUST_DOMAIN] = values[TRUST_DOMAIN] or values.get("clusterDomain")
    bundle = str(values.get(BUNDLE, ""))
    try:
        return {**trimmed, BUNDLE: fingerprints(bundle, BUNDLE)} if bundle else trimmed
    except MeshError:
        return trimmed


def _trimmed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _trimmed(item) for key, item in cast("dict[str, Any]", value).items()}
    return value.strip() if isinstance(value, str) else value
