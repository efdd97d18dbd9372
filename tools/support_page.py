"""Prints docs/support.md from a run of the tests: how many passed for each Linkerd version.

python -m tools.support_page junit.xml > docs/support.md
"""

from __future__ import annotations

import platform
import re
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from sandbox.binaries import KUBERNETES

ROOT = Path(__file__).parents[1]
LINKERD = re.compile(r"(?:stable|edge)-\d+\.\d+\.\d+")
AREAS: dict[str, re.Pattern[str]] = {
    "install": re.compile(r"bootstrap|preinstall|test_plans|installed"),
    "verify": re.compile(r"\.checks\."),
    "upgrade": re.compile(r"upgrade|going_back"),
    "rotate": re.compile(r"rotat"),
    "uninstall": re.compile(r"uninstall"),
    "smoke tests": re.compile(r"smoke"),
}
"""The area of a test, by patterns of its module's name."""

LEAST = 5
"""The fewest passed tests for a version to be listed: fewer only name it, in pure unit tests."""


def ran(report: Path) -> Counter[tuple[str, str]]:
    """Counts the passed tests by Linkerd version and area."""
    found: Counter[tuple[str, str]] = Counter()
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 a file of our own
        if case.find("failure") is not None or case.find("skipped") is not None:
            continue
        place, name = case.get("classname") or "", case.get("name") or ""
        area = next((area for area, words in AREAS.items() if words.search(place)), "other")
        for linkerd in set(LINKERD.findall(name)):
            found[linkerd, area] += 1
    return found


def page(report: Path) -> str:
    return "\n".join(_lines(ran(report))) + "\n"


def _lines(found: Counter[tuple[str, str]]) -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield "# What is supported"
    yield ""
    yield "Made from a run of the tests by `python -m tools.support_page`: each version was run on"
    yield "real Kubernetes API servers with Linkerd's own charts. Numbers are tests that passed."
    yield ""
    yield "## Linkerd"
    yield ""
    areas = [*AREAS, "other"]
    yield f"| version | {' | '.join(areas)} |"
    yield "|---" * (len(areas) + 1) + "|"
    totals = Counter[str]()
    for (linkerd, _), number in found.items():
        totals[linkerd] += number
    versions = [linkerd for linkerd, number in totals.items() if number >= LEAST]
    for linkerd in sorted(versions, key=LinkerdVersion.parse):
        counts = (str(found[linkerd, area] or "") for area in areas)
        yield f"| {linkerd} | {' | '.join(counts)} |"
    yield ""
    yield "Other releases of these minors, and edges in between, do not differ in any fact that"
    yield "`prefect_linkerd/mesh/linkerd/facts.py` knows; they are accepted, but were not run."
    yield ""
    yield "## Other requirements"
    yield ""
    yield "| | tested with | accepted |"
    yield "|---|---|---|"
    yield f"| Kubernetes | {KUBERNETES} | what each Linkerd chart allows; preflight says so |"
    yield f"| Prefect | {version('prefect')} | {_wanted(project, 'prefect')} |"
    yield f"| Python | {platform.python_version()} | {project['requires-python']} |"
    yield f"| operating system | {platform.system()} {platform.machine()} | Linux; macOS untested |"
    yield "| Helm | the sandbox's | 3.13 or newer, and 4 |"


def _wanted(project: dict[str, list[str]], name: str) -> str:
    return next(
        each.removeprefix(name)
        for each in project["dependencies"]
        if re.match(rf"{name}[^a-z-]", each)
    )


if __name__ == "__main__":
    print(page(Path(sys.argv[1])), end="")
