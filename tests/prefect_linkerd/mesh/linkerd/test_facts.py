"""The table of Linkerd's versions: each row is complete and agrees with the charts at hand."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import Chart, ChartCatalog, folder_entries, linkerd_of
from prefect_linkerd.mesh.linkerd.facts import (
    AS_BEFORE,
    CONTROL_PLANE_CHARTS,
    FIRST_EDGES,
    HISTORY,
    LINKERD_CHARTS,
    ReleaseFacts,
    Row,
    first_versions,
    last_with,
    release_facts,
    skipped_minors,
)
from prefect_linkerd.mesh.linkerd.version import OLDEST, LinkerdVersion

FACTS = {field.name for field in fields(ReleaseFacts)}

# Rows


def lacking(rows: tuple[Row, ...]) -> Iterator[str]:
    """What is missing in the rows of the table."""
    facts: dict[str, Any] = {}
    previous: Row | None = None
    for row in rows:
        name = f"row {row.stable or ''} {row.edge or ''}".strip()
        yield from (f"{name}: {text}" for text in lacking_in(row, previous))
        if previous is None:
            yield from (f"{name}: it says nothing of {fact}" for fact in FACTS - {*row.changed})
        for fact, value in row.changed.items():
            before: Any = facts.get(fact)
            is_more = isinstance(value, Mapping) and before is not None
            facts[fact] = {**before, **value} if is_more else value
            if facts[fact] == before:
                yield f"{name}: {fact} is as before"
        previous = row


def lacking_in(row: Row, previous: Row | None) -> Iterator[str]:
    tags = {
        f"{channel}-{'.'.join(map(str, numbers))}"
        for channel, numbers in (("stable", row.stable), ("edge", row.edge))
        if numbers
    }
    if row.edge is None:
        yield "it has no first edge"
    if not row.changed:
        yield "it changes nothing"
    if not row.source:
        yield "it has no source"
    for source in row.source:
        tag, _, path = source.partition(":")
        if not source.startswith("https://") and not (tag in tags and path):
            yield f"its source {source} is no address, and of none of {', '.join(sorted(tags))}"
    if previous is not None and previous.edge and row.edge and row.edge <= previous.edge:
        yield "its edge is not after the one of the row before"
    if previous is not None and row.stable and (previous.stable or (9,)) > row.stable:
        yield "its stable release comes before the one of the row before"


def test_no_row_lacks_anything() -> None:
    assert not [*lacking(HISTORY)]


FIRST = HISTORY[0]
GOOD = Row(
    None, (27, 1, 1), ("edge-27.1.1:pkg/k8s/api.go",), ReleaseFacts(minimum_kubernetes=(1, 33))
)


@pytest.mark.parametrize(
    ("row", "lack"),
    [
        (GOOD, ""),
        (replace(GOOD, edge=None, source=("https://linkerd.io",)), "it has no first edge"),
        (replace(GOOD, source=()), "it has no source"),
        (replace(GOOD, source=("edge-26.1.1:pkg",)), "is no address, and of none of edge-27.1.1"),
        (replace(GOOD, source=("edge-27.1.1",)), "its source edge-27.1.1 is no address"),
        (replace(GOOD, changes=ReleaseFacts()), "it changes nothing"),
        (replace(GOOD, edge=(26, 1, 1), source=("https://linkerd.io",)), "its edge is not after"),
        (replace(GOOD, stable=(2, 15, 0)), "its stable release comes before"),
        (replace(GOOD, changes=ReleaseFacts(series=20)), "series is as before"),
        (
            replace(GOOD, changes=ReleaseFacts(crds={"servers.policy.linkerd.io": "v1beta3"})),
            "crds is as before",
        ),
    ],
)
def test_what_a_new_row_lacks_is_named(row: Row, lack: str) -> None:
    found = [*lacking((*HISTORY, row))]
    assert len(found) == (1 if lack else 0)
    assert lack in "".join(found)


def test_the_first_row_says_everything() -> None:
    first = replace(FIRST, changes=replace(FIRST.changes, splits=AS_BEFORE))
    assert "it says nothing of splits" in "".join(lacking((first,)))


def test_every_fact_can_be_changed_and_is_explained() -> None:
    assert set(re.findall(r"^        (\w+): ", ReleaseFacts.__doc__ or "", re.MULTILINE)) == FACTS
    assert {field.default for field in fields(ReleaseFacts)} == {AS_BEFORE}


# Versions

edges = st.tuples(st.integers(23, 60), st.integers(1, 12), st.integers(1, 9)).map(
    lambda numbers: LinkerdVersion("edge", numbers)
)
stables = st.tuples(st.just(2), st.integers(11, 20), st.integers(0, 30)).map(
    lambda numbers: LinkerdVersion("stable", numbers)
)


@settings(deadline=None)
@given(st.one_of(edges, stables))
def test_every_version_has_the_facts_of_the_last_row_before_it(version: LinkerdVersion) -> None:
    rows = [first for first in first_versions(version.channel) if first <= version]
    assert release_facts(version) == release_facts(rows[-1])


def test_a_version_newer_than_every_row_is_as_the_last_one() -> None:
    newest = first_versions("edge")[-1]
    assert release_facts(LinkerdVersion("edge", (99, 1, 1))) == release_facts(newest)


def test_each_series_begins_where_the_table_says() -> None:
    for series, first in FIRST_EDGES.items():
        assert release_facts(LinkerdVersion("edge", first)).series == series
    assert [*FIRST_EDGES] == [*range(11, max(FIRST_EDGES) + 1)]
    oldest = release_facts(LinkerdVersion("edge", OLDEST["edge"]))
    assert (oldest.series, oldest.chart_numbers) == (12, "own")


def test_the_last_version_with_an_extension_has_it() -> None:
    assert last_with("linkerd-viz") == first_versions("edge")[-1]
    last = last_with("linkerd-jaeger")
    assert "linkerd-jaeger" in release_facts(last).extensions
    later = next(first for first in first_versions("edge") if first > last)
    assert "linkerd-jaeger" not in release_facts(later).extensions


@pytest.mark.parametrize(
    ("current", "target", "skipped"),
    [
        ("stable-2.11.5", "stable-2.12.6", ()),
        ("stable-2.11.5", "stable-2.14.10", ("stable-2.12", "stable-2.13")),
        ("stable-2.13.7", "edge-26.8.3", ("stable-2.14",)),
        ("stable-2.14.10", "edge-26.8.3", ()),
        ("edge-23.1.1", "edge-26.8.3", ()),
    ],
)
def test_the_minors_between_two_versions(current: str, target: str, skipped: tuple[str]) -> None:
    versions = LinkerdVersion.parse(current), LinkerdVersion.parse(target)
    assert skipped_minors(*versions) == skipped


# Charts


@dataclass(frozen=True)
class Package:
    """A chart, and its and its subcharts' templates by path."""

    chart: Chart
    templates: Mapping[str, str]

    @property
    def text(self) -> str:
        return "\n---\n".join(self.templates.values())

    def of_kind(self, kind: str) -> list[str]:
        documents = re.split(r"^---\s*$", self.text, flags=re.MULTILINE)
        return [d for d in documents if re.search(rf"^kind: {kind}$", d, re.MULTILINE)]

    def has_value(self, path: str) -> bool:
        found: Any = self.chart.defaults
        for part in path.split("."):
            if not isinstance(found, dict) or part not in found:
                return False
            found = found[part]
        return True

    @property
    def crds(self) -> dict[str, list[str]]:
        """The versions of each CRD, in the chart's order."""
        return {
            re.findall(r"^  name: (\S+)$", text, re.MULTILINE)[0]: re.findall(
                r"^ {2,4}(?:- )?name: (v\d\w*)$", text, re.MULTILINE
            )
            for text in self.of_kind("CustomResourceDefinition")
        }


def package(chart: Chart) -> Package:
    with tarfile.open(chart.path) as archive:
        files = {
            member.name.partition("/")[2]: (content.read().decode())
            for member in archive
            if (content := archive.extractfile(member)) is not None
        }
    return Package(chart, {name: files[name] for name in files if "templates/" in name})


def disagreements(facts: ReleaseFacts, packages: Mapping[str, Package]) -> Iterator[str]:
    """The facts of a version that its charts contradict."""
    plane, crds = packages[facts.control_plane_chart], packages[facts.crds_chart].crds
    viz, jaeger = packages["linkerd-viz"], packages.get("linkerd-jaeger")
    if plane.chart.kube_version != ">={}.{}.0-0".format(*facts.minimum_kubernetes):
        yield "minimum_kubernetes"
    own = {name: versions[-1] for name, versions in crds.items() if "gateway" not in name}
    asked = {name: last for name, last in facts.crds.items() if "gateway" not in name}
    is_whole = asked == own if facts.checks_crd_versions else asked.keys() < own.keys()
    is_newest = all(crds[name][-1] == last for name, last in facts.crds.items() if name in crds)
    if not (is_whole and is_newest):
        yield "crds"
    served = {
        (f"{name.partition('.')[2]}/{v}") for name, versions in crds.items() for v in versions
    }
    for group in {api.partition("/")[0] for api, _ in facts.splits}:
        if not any(api.startswith(f"{group}/") and api in served for api, _ in facts.splits):
            yield "splits"
    for old, new in facts.renamed_values.items():
        if plane.has_value(old) or not plane.has_value(new):
            yield "renamed_values"
    if plane.has_value("policyController.defaultAllowPolicy") == bool(facts.renamed_values):
        yield "renamed_values"
    if facts.has_one_chart != plane.has_value("installNamespace"):
        yield "control_plane_chart"
    budgets = "".join(plane.of_kind("PodDisruptionBudget"))
    if facts.has_beta_disruption_budgets != ("policy/v1beta1" in budgets):
        yield "has_beta_disruption_budgets"
    if facts.has_beta_heartbeat != ("batch/v1beta1" in plane.templates["templates/heartbeat.yaml"]):
        yield "has_beta_heartbeat"
    if "pod-security.kubernetes.io/enforce" in plane.text and not facts.labels_pod_security:
        yield "labels_pod_security"
    by_namespace = "linkerd.io/inject: enabled" in viz.templates["templates/namespace.yaml"]
    if facts.injects_extensions_by_namespace != by_namespace:
        yield "injects_extensions_by_namespace"
    if facts.labels_extensions_by_job != bool(viz.of_kind("Job")):
        yield "labels_extensions_by_job"
    if facts.publishes_trust_bundle != ("linkerd.io/trust-root-sha256" in plane.text):
        yield "publishes_trust_bundle"
    if jaeger and facts.jaeger_takes_pull_secrets != jaeger.has_value("imagePullSecrets"):
        yield "jaeger_takes_pull_secrets"
    if facts.gateway_api_release and not facts.checks_gateway_api:
        yield "gateway_api_release"


@pytest.fixture(scope="module")
def releases(charts_dir: Path) -> dict[LinkerdVersion, dict[str, Package]]:
    """Every release in the shared repositories, with the charts that the table gives it."""
    found: dict[LinkerdVersion, dict[str, Package]] = {}
    for channel in OLDEST:
        for name in CONTROL_PLANE_CHARTS:
            for entry in folder_entries(charts_dir / channel, name):
                if (version := linkerd_of(entry, name)) is not None:
                    found[version] = charts_by_table(version, charts_dir)
    assert {version.channel for version in found} == {*OLDEST}
    return found


def charts_by_table(version: LinkerdVersion, charts_dir: Path) -> dict[str, Package]:
    catalog = ChartCatalog(MeshConfig(version=str(version), charts={"mirror": charts_dir}))
    facts = release_facts(version)
    return {name: package(catalog.find(name)) for name in (*facts.charts, *facts.extensions)}


@pytest.mark.real_charts
def test_every_chart_is_as_its_row_says(
    releases: dict[LinkerdVersion, dict[str, Package]],
) -> None:
    found = {str(v): [*disagreements(release_facts(v), releases[v])] for v in releases}
    assert {name: facts for name, facts in found.items() if facts} == {}


@pytest.mark.real_charts
def test_a_chart_that_no_row_names_is_found(charts_dir: Path) -> None:
    for folder in OLDEST:
        names = {path.name.rpartition("-")[0] for path in (charts_dir / folder).glob("*.tgz")}
        assert names <= {*LINKERD_CHARTS, "linkerd2-cni"}


@pytest.mark.real_charts
@pytest.mark.parametrize(
    ("version", "wrong"),
    [
        ("edge-26.8.3", {"minimum_kubernetes": (1, 23)}),
        ("edge-26.8.3", {"crds": {"serviceprofiles.linkerd.io": "v1alpha2"}}),
        ("edge-26.8.3", {"splits": (("split.smi-spec.io/v1alpha2", "TrafficSplit"),)}),
        ("edge-26.8.3", {"renamed_values": {}}),
        ("edge-26.8.3", {"renamed_values": {"proxy.image": "proxy.picture"}}),
        ("edge-26.8.3", {"labels_extensions_by_job": False}),
        ("edge-26.8.3", {"publishes_trust_bundle": False}),
        ("edge-26.8.3", {"labels_pod_security": False}),
        ("stable-2.12.6", {"has_beta_disruption_budgets": True}),
        ("stable-2.11.5", {"crds": {"serviceprofiles.linkerd.io": "v1alpha1"}}),
        ("stable-2.11.5", {"has_beta_heartbeat": False}),
        ("stable-2.11.5", {"injects_extensions_by_namespace": False}),
        ("stable-2.11.5", {"jaeger_takes_pull_secrets": True}),
    ],
)
def test_a_fact_that_charts_contradict_is_named(
    version: str, wrong: dict[str, Any], releases: dict[LinkerdVersion, dict[str, Package]]
) -> None:
    parsed = LinkerdVersion.parse(version)
    facts = replace(release_facts(parsed), **wrong)
    assert [*disagreements(facts, releases[parsed])] == [*wrong]
