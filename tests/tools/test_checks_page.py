"""docs/checks.md matches the code, and the code has all of Linkerd's checks."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from prefect_linkerd.mesh.checks.categories import CATEGORIES
from prefect_linkerd.mesh.checks.check import Check
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.snapshot.mesh import Snapshot
from tests.support.repository import ROOT
from tools.checks_page import (
    NOT_COVERED,
    OF_NO_OBJECT,
    PARTS,
    checks_page,
    family_of,
)

VERSIONS = ("stable-2.11.5", "stable-2.14.10", "edge-26.8.3")


def test_the_page_is_up_to_date() -> None:
    page = ROOT / "docs/checks.md"
    assert page.read_text() == checks_page()


def test_every_check_of_our_own_is_where_its_hint_leads() -> None:
    page = (ROOT / "docs/checks.md").read_text()
    own = [check.id for category in CATEGORIES for check in category.checks]
    for id_ in {id_ for id_ in own if id_.startswith("pl-")}:
        assert f'<a id="{id_}"></a>' in page, id_


def test_the_page_has_a_name_for_every_part_of_a_snapshot() -> None:
    assert PARTS.keys() == Snapshot.parts() - OF_NO_OBJECT


@pytest.fixture(scope="module")
def reference(shared_dir: Path) -> list[dict[str, str]]:
    """Every check in Linkerd's sources at three tags, by family, with yes or no for each tag."""
    with (shared_dir / "reference/check-ids.csv").open() as file:
        return list(csv.DictReader(file))


def covered() -> dict[tuple[str, str], list[Check]]:
    found: dict[tuple[str, str], list[Check]] = {}
    for category in CATEGORIES:
        if (family := family_of(category)) is not None:
            for check in category.checks:
                found.setdefault((family, check.id), []).append(check)
    return found


@pytest.mark.real_charts
def test_every_check_of_linkerd_is_done_or_has_a_reason(reference: list[dict[str, str]]) -> None:
    wanted = {(row["family"], row["check_id"]) for row in reference}
    left_out = {(each.family, each_id) for each in NOT_COVERED for each_id in each.ids}
    own = {key for key in covered() if not key[1].startswith("pl-")}

    assert wanted - own - left_out == set()
    assert own - wanted == set(), "checks under an id that Linkerd does not have"
    assert own & left_out == set(), "checks that are done and listed as not"
    assert left_out - wanted == set()
    assert all(each.reason for each in NOT_COVERED)


@pytest.mark.real_charts
@pytest.mark.parametrize("version", VERSIONS)
def test_each_check_is_of_the_versions_that_linkerd_has_it_in(
    version: str, reference: list[dict[str, str]]
) -> None:
    parsed, found = LinkerdVersion.parse(version), covered()
    for row in reference:
        checks = found.get((row["family"], row["check_id"]))
        if checks is not None:
            has_it = any(parsed in check.versions for check in checks)
            assert has_it == (row[version] == "yes"), row
