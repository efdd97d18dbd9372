"""Which tests take long, so that they start first and none runs alone at the end.

`python -m tests.lengths junit.xml` prints the table for a run with `--junitxml`.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

LENGTHS: dict[str, int] = {
    "deployments": 595,
    "smoke": 371,
    "mesh stable-2.14.10": 298,
    "walk": 283,
    "exact roles": 274,
    "tests/flows/test_upgrade_gates.py": 257,
    "team": 236,
    "signed": 202,
    "tests/prefect_linkerd/mesh/rotation/test_rotation.py": 194,
    "tests/prefect_linkerd/cli/test_fleet_at_terminal.py": 156,
    "managed": 153,
    "tests/prefect_linkerd/mesh/helm/test_client.py": 142,
    "certificate anchor": 131,
    "tests/flows/test_upgrade_dependencies.py": 128,
    "tests/flows/test_adopted_meshes.py": 75,
    "tests/flows/test_theirs.py": 74,
    "tests/prefect_linkerd/mesh/rotation/test_faults.py": 72,
    "tests/prefect_linkerd/mesh/rotation/test_killed.py": 69,
    "cert-manager": 64,
    "tests/flows/test_upgrade_killed.py": 59,
    "tests/flows/test_bootstrap_killed.py": 56,
    "tests/flows/test_watch_charts.py": 54,
    "tests/flows/test_bootstrap_versions.py": 51,
    "tests/prefect_linkerd/mesh/probe/test_rotation.py": 44,
    "tests/prefect_linkerd/mesh/rotation/test_external_bundle.py": 44,
    "tests/flows/test_secrets.py": 42,
    "crds": 41,
    "tests/prefect_linkerd/cli/test_without_server.py": 40,
    "tests/flows/test_rotate_anchor.py": 39,
    "tests/flows/test_plans.py": 39,
    "tests/project/test_docs.py": 33,
    "mesh edge-26.8.3": 32,
    "tests/flows/test_offline.py": 31,
    "tests/prefect_linkerd/mesh/test_plain_helm.py": 31,
    "tests/flows/test_upgrade_plain_helm.py": 29,
    "mesh edge-25.4.4": 23,
    "tests/prefect_linkerd/mesh/rotation/test_traffic.py": 20,
    "tests/prefect_linkerd/mesh/test_drivers.py": 20,
}
"""Seconds of each unit that runs in one piece: a group, or the longest test of a file."""


def length(item: pytest.Item) -> int:
    """Seconds that a test's group takes, or else the longest test of its file; 0 if unknown."""
    group = item.get_closest_marker("xdist_group")
    name = group.args[0] if group else item.nodeid.partition("::")[0]
    return LENGTHS.get(str(name), 0)


def measured(report: str) -> dict[str, int]:
    """The table for a run, from its JUnit report: what took 20 seconds or longer."""
    groups: Counter[str] = Counter()
    singles: dict[str, float] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 a file of our own
        seconds = float(case.get("time") or 0)
        name, _, group = (case.get("name") or "").rpartition("@")
        if name and not group.endswith("]"):
            groups[group] += seconds
            continue
        parts = (case.get("classname") or "").split(".")
        while parts and not parts[-1].startswith("test_"):
            parts.pop()
        file = "/".join(parts) + ".py"
        singles[file] = max(singles.get(file, 0), seconds)
    found = {name: round(seconds) for name, seconds in (groups | singles).items()}
    return dict(sorted(((n, s) for n, s in found.items() if s >= 20), key=lambda x: -x[1]))


if __name__ == "__main__":
    for place, seconds in measured(sys.argv[1]).items():
        print(f'    "{place}": {seconds},')
