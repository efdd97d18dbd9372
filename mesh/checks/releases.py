"""Whether the mesh's Helm releases are there, finished, and as the configuration has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mesh.checks.check import Category, Problem, Problems, Skip
from mesh.errors import MeshError
from mesh.helm import PENDING, DesiredRelease
from mesh.helm_record import Release
from mesh.pki import fingerprints
from mesh.snapshot import Snapshot
from mesh.wanted import differing_keys

BUNDLE = "identityTrustAnchorsPEM"

releases = Category("pl-releases", "beyond")


@releases.check("pl-release-pending", "no Helm release is left pending")
def _(snapshot: Snapshot) -> Problems:
    for release in snapshot.releases:
        if release.status in (*PENDING, "uninstalling"):
            yield Problem(
                _subject(release),
                f"its revision {release.revision} is {release.status} since "
                f"{release.updated:%Y-%m-%d %H:%M} UTC",
                "Unless something works on it now, run bootstrap, which finishes it.",
            )


@releases.check("pl-release-failed", "no Helm release has failed")
def _(snapshot: Snapshot) -> Problems:
    for release in snapshot.releases:
        if release.status == "failed":
            yield Problem(
                _subject(release),
                f"its revision {release.revision} failed on {release.updated:%Y-%m-%d %H:%M} UTC",
                "Look at `helm history`, mend what it names and run bootstrap again.",
            )


@releases.check("pl-release-exists", "every chart of the configuration is a release", "warning")
def _(snapshot: Snapshot) -> Problems:
    there = {(release.namespace, release.name) for release in snapshot.releases}
    for wanted in _wanted(snapshot):
        if (wanted.namespace, wanted.name) not in there:
            yield Problem(
                f"Helm release {wanted.namespace}/{wanted.name}",
                "there is none, though the configuration asks for its chart",
                "Run bootstrap, or turn the part off in the configuration.",
            )


@releases.check("pl-release-chart", "releases are of the configured charts", "warning")
def _(snapshot: Snapshot) -> Problems:
    for release, wanted in _pairs(snapshot):
        have, want = (
            (release.chart, release.chart_version),
            (wanted.chart.name, wanted.chart.version),
        )
        if have != want:
            yield Problem(
                _subject(release),
                f"it is of chart {' '.join(have)} instead of {' '.join(want)}",
                "Set the configured version to the installed one, or run the upgrade.",
            )


@releases.check("pl-release-values", "releases have the values of the configuration", "warning")
def _(snapshot: Snapshot) -> Problems:
    for release, wanted in _pairs(snapshot):
        # Another chart has other values: the check before this one says so.
        if release.values is None or release.chart_version != wanted.chart.version:
            continue
        keys = differing_keys(_comparable(release.values), _comparable(wanted.values))
        if keys:
            yield Problem(
                _subject(release),
                f"its values differ from the configuration's in {', '.join(keys[:20])}"
                + (f" and {len(keys) - 20} more" if len(keys) > 20 else ""),
                "Run bootstrap to bring them back, or write the change into the configuration.",
            )


def _subject(release: Release) -> str:
    return f"Helm release {release.namespace}/{release.name}"


def _wanted(snapshot: Snapshot) -> tuple[DesiredRelease, ...]:
    try:
        return snapshot.wanted
    except MeshError as error:
        # A chart source that is away is no fault of the mesh; linkerd's check of versions says so.
        raise Skip(f"there is nothing to compare with: {error}") from None


def _pairs(snapshot: Snapshot) -> Iterator[tuple[Release, DesiredRelease]]:
    there = {(release.namespace, release.name): release for release in snapshot.releases}
    for wanted in _wanted(snapshot):
        release = there.get((wanted.namespace, wanted.name))
        if release is not None and release.status != "uninstalled":
            yield release, wanted


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with the trust bundle as the set of its certificates: its order says nothing."""
    bundle = str(values.get(BUNDLE, ""))
    try:
        return {**values, BUNDLE: fingerprints(bundle, BUNDLE)} if bundle else dict(values)
    except MeshError:
        return dict(values)
