"""Which chart versions make up which Linkerd release.

Three rules, from the oldest releases to the newest (`ReleaseFacts.chart_numbers`):

- At first every chart had Linkerd's own version.
- Then each chart had its own, and `linkerd-crds` did not say which Linkerd it belongs to (one
  version of it serves many). The table lists these releases, and is complete: 2.14.10 was the last
  stable one.
- Now every chart's version is the release's date.

Source: `charts/*/Chart.yaml` and `*/charts/*/Chart.yaml` at each release's tag, and
`bin/helm-build`, in https://github.com/linkerd/linkerd2
"""

from __future__ import annotations

from prefect_linkerd.mesh.linkerd.facts import LinkerdChart, release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion

_CHARTS: tuple[LinkerdChart, ...] = (
    "linkerd-crds",
    "linkerd-control-plane",
    "linkerd-viz",
    "linkerd-jaeger",
)
_TABLE = """
stable-2.12.0   1.4.0      1.9.0         30.3.0         30.4.0
stable-2.12.1   1.4.0      1.9.3         30.3.3         30.4.3
stable-2.12.2   1.4.0      1.9.4         30.3.4         30.4.4
stable-2.12.3   1.4.0      1.9.5         30.3.5         30.4.5
stable-2.12.4   1.4.0      1.9.6         30.3.6         30.4.6
stable-2.12.5   1.4.0      1.9.7         30.3.7         30.4.7
stable-2.12.6   1.4.0      1.9.8         30.3.8         30.4.8
stable-2.13.0   1.6.0      1.12.0        30.8.0         30.8.0
stable-2.13.1   1.6.0      1.12.1        30.8.1         30.8.1
stable-2.13.2   1.6.1      1.12.2        30.8.2         30.8.2
stable-2.13.3   1.6.1      1.12.3        30.8.3         30.8.3
stable-2.13.4   1.6.1      1.12.4        30.8.4         30.8.4
stable-2.13.5   1.6.1      1.12.5        30.8.5         30.8.5
stable-2.13.6   1.6.1      1.12.6        30.8.6         30.8.6
stable-2.13.7   1.6.1      1.12.7        30.8.7         30.8.7
stable-2.14.0   1.8.0      1.15.0        30.11.0        30.11.0
stable-2.14.1   1.8.0      1.16.2        30.12.2        30.12.2
stable-2.14.2   1.8.0      1.16.3        30.12.3        30.12.3
stable-2.14.3   1.8.0      1.16.4        30.12.4        30.12.4
stable-2.14.4   1.8.0      1.16.5        30.12.5        30.12.5
stable-2.14.5   1.8.0      1.16.6        30.12.6        30.12.6
stable-2.14.6   1.8.0      1.16.7        30.12.7        30.12.7
stable-2.14.7   1.8.0      1.16.8        30.12.8        30.12.8
stable-2.14.8   1.8.0      1.16.9        30.12.9        30.12.9
stable-2.14.9   1.8.0      1.16.10       30.12.10       30.12.10
stable-2.14.10  1.8.0      1.16.11       30.12.11       30.12.11
edge-23.1.1     1.4.0      1.11.1-edge   30.4.7-edge    30.6.1-edge
edge-23.1.2     1.5.0-edge 1.11.2-edge   30.4.8-edge    30.6.2-edge
edge-23.2.1     1.5.0-edge 1.11.3-edge   30.4.9-edge    30.6.3-edge
edge-23.2.2     1.5.0-edge 1.11.4-edge   30.4.10-edge   30.6.4-edge
edge-23.2.3     1.5.0-edge 1.11.5-edge   30.5.0-edge    30.6.5-edge
edge-23.3.1     1.5.0-edge 1.11.6-edge   30.6.0-edge    30.7.5-edge
edge-23.3.2     1.5.0-edge 1.11.7-edge   30.7.0-edge    30.7.6-edge
edge-23.3.3     1.5.0-edge 1.11.8-edge   30.7.1-edge    30.7.7-edge
edge-23.3.4     1.5.0-edge 1.11.9-edge   30.7.2-edge    30.7.8-edge
edge-23.4.1     1.5.0-edge 1.11.10-edge  30.7.3-edge    30.7.9-edge
edge-23.4.2     1.7.0-edge 1.13.0-edge   30.9.0-edge    30.9.0-edge
edge-23.4.3     1.7.0-edge 1.13.1-edge   30.9.1-edge    30.9.1-edge
edge-23.5.1     1.7.0-edge 1.13.2-edge   30.9.2-edge    30.9.2-edge
edge-23.5.2     1.7.1-edge 1.13.3-edge   30.10.0-edge   30.10.0-edge
edge-23.5.3     1.7.1-edge 1.13.4-edge   30.10.1-edge   30.10.1-edge
edge-23.6.1     1.7.2-edge 1.13.5-edge   30.10.2-edge   30.10.2-edge
edge-23.6.2     1.7.3-edge 1.13.6-edge   30.10.2-edge   30.10.3-edge
edge-23.6.3     1.7.3-edge 1.13.7-edge   30.10.3-edge   30.10.4-edge
edge-23.7.1     1.7.4-edge 1.13.8-edge   30.10.4-edge   30.10.5-edge
edge-23.7.2     1.7.4-edge 1.13.9-edge   30.10.5-edge   30.10.6-edge
edge-23.7.3     1.7.4-edge 1.14.0-edge   30.10.6-edge   30.10.7-edge
edge-23.8.1     1.7.4-edge 1.14.1-edge   30.10.7-edge   30.10.8-edge
edge-23.8.2     1.7.4-edge 1.14.2-edge   30.10.8-edge   30.10.9-edge
edge-23.8.3     1.7.4-edge 1.14.3-edge   30.10.9-edge   30.10.10-edge
edge-23.9.1     1.8.0      1.16.0-edge   30.12.0-edge   30.12.0-edge
edge-23.9.2     1.8.0      1.16.1-edge   30.12.1-edge   30.12.1-edge
edge-23.9.3     1.8.0      1.17.0-edge   30.12.2-edge   30.13.0-edge
edge-23.9.4     1.8.0      1.17.1-edge   30.13.0-edge   30.13.1-edge
edge-23.10.1    1.8.0      1.17.2-edge   30.13.1-edge   30.13.2-edge
edge-23.10.2    1.8.0      1.17.3-edge   30.13.2-edge   30.13.3-edge
edge-23.10.3    1.8.0      1.17.4-edge   30.13.3-edge   30.13.4-edge
edge-23.10.4    1.9.0-edge 1.17.5-edge   30.13.4-edge   30.13.5-edge
edge-23.11.1    1.9.0-edge 1.17.6-edge   30.13.5-edge   30.13.6-edge
edge-23.11.2    1.9.0-edge 1.17.7-edge   30.13.6-edge   30.13.7-edge
edge-23.11.3    1.9.0-edge 1.17.8-edge   30.13.7-edge   30.13.8-edge
edge-23.11.4    1.9.0-edge 1.17.9-edge   30.13.8-edge   30.13.9-edge
edge-23.12.1    1.9.0-edge 1.18.0-edge   30.14.0-edge   30.14.0-edge
edge-23.12.2    1.9.1-edge 1.18.1-edge   30.14.1-edge   30.14.1-edge
edge-23.12.3    1.9.1-edge 1.18.2-edge   30.14.2-edge   30.14.2-edge
edge-23.12.4    1.9.1-edge 1.18.3-edge   30.14.3-edge   30.14.3-edge
edge-24.1.1     1.9.2-edge 1.18.4-edge   30.14.4-edge   30.14.4-edge
edge-24.1.2     1.9.2-edge 1.18.5-edge   30.14.5-edge   30.14.5-edge
edge-24.1.3     1.9.2-edge 1.18.6-edge   30.14.6-edge   30.14.6-edge
edge-24.2.1     1.9.3-edge 1.18.7-edge   30.14.7-edge   30.14.7-edge
edge-24.2.2     1.9.3-edge 1.18.8-edge   30.14.8-edge   30.14.8-edge
edge-24.2.3     1.9.3-edge 1.18.9-edge   30.14.9-edge   30.14.9-edge
edge-24.2.4     1.9.4-edge 1.18.10-edge  30.14.10-edge  30.14.10-edge
edge-24.2.5     1.9.5-edge 1.18.11-edge  30.14.11-edge  30.14.11-edge
"""


def _rows() -> dict[LinkerdVersion, dict[str, str]]:
    lines = (line.split() for line in _TABLE.strip().splitlines())
    return {
        LinkerdVersion.parse(name): dict(zip(_CHARTS, versions, strict=True))
        for name, *versions in lines
    }


RELEASES = _rows()
"""The releases whose charts have versions of their own: each chart's version, by its name."""

_BY_CHART = {
    (chart, version): release
    for release, charts in RELEASES.items()
    for chart, version in charts.items()
}


def chart_version(chart: str, release: LinkerdVersion) -> str | None:
    """The version of a Linkerd chart that belongs to a release.

    None if no rule knows it: a vendor's own release, whose chart versions have to come from its
    index or the mesh's configuration (`charts.versions`).

    Example:
        >>> chart_version("linkerd-crds", LinkerdVersion.parse("stable-2.12.2"))
        '1.4.0'
        >>> chart_version("linkerd-viz", LinkerdVersion.parse("edge-26.8.3"))
        '2026.8.3'
    """
    if (row := RELEASES.get(release)) is not None:
        return row.get(chart)
    match release_facts(release).chart_numbers:
        case "version":
            return ".".join(map(str, release.numbers))
        case "date":
            return f"20{'.'.join(map(str, release.numbers))}"
        case "own":
            return None


def release_of(chart: str, version: str) -> str | None:
    """The release that a chart version belongs to, if its name and number alone determine it.

    None for a `linkerd-crds` without a date, because one version of it serves many releases.

    Example:
        >>> release_of("linkerd-control-plane", "1.9.4")
        'stable-2.12.2'
    """
    if chart == "linkerd2":
        return f"stable-{version}"
    if version.startswith("20"):
        return f"edge-{version[2:]}"
    if chart == "linkerd-crds" or (release := _BY_CHART.get((chart, version))) is None:
        return None
    return str(release)
