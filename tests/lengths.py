"""Which tests take long, so that they begin first and none is left alone at the end.

`python -m tests.lengths junit.xml` prints the table for a run with `--junitxml`.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

LENGTHS: dict[str, int] = {
    "deployments": 667,
    "mesh stable-2.14.10": 396,
    "smoke": 378,
    "walk": 358,
    "exact roles": 340,
    "team": 265,
    "tests/flows/test_upgrade_gates.py": 254,
    "signed": 227,
    "tests/flows/test_upgrade_killed.py": 204,
    "tests/flows/test_bootstrap_killed.py": 199,
    "certificate anchor": 164,
    "tests/prefect_linkerd/mesh/helm/test_client.py": 150,
    "tests/prefect_linkerd/mesh/rotation/test_rotation.py": 145,
    "tests/prefect_linkerd/cli/test_fleet_at_terminal.py": 144,
    "managed": 135,
    "tests/flows/test_upgrade_dependencies.py": 109,
    "tests/prefect_linkerd/mesh/rotation/test_killed.py": 89,
    "tests/prefect_linkerd/mesh/rotation/test_faults.py": 80,
    "tests/flows/test_adopted_meshes.py": 77,
    "tests/flows/test_watch_charts.py": 75,
    "tests/flows/test_theirs.py": 73,
    "tests/flows/test_secrets.py": 60,
    "tests/prefect_linkerd/cli/test_without_server.py": 54,
    "tests/prefect_linkerd/mesh/rotation/test_external_bundle.py": 53,
    "tests/prefect_linkerd/mesh/probe/test_rotation.py": 52,
    "tests/flows/test_rotate_anchor.py": 50,
    "tests/flows/test_offline.py": 46,
    "crds": 44,
    "tests/prefect_linkerd/mesh/test_plain_helm.py": 43,
    "tests/flows/test_bootstrap_versions.py": 42,
    "tests/flows/test_upgrade_plain_helm.py": 41,
    "mesh edge-26.8.3": 40,
    "cert-manager": 37,
    "tests/flows/test_plans.py": 37,
    "install": 29,
    "tests/project/test_docs.py": 29,
    "tests/prefect_linkerd/mesh/test_drivers.py": 29,
    "mesh edge-25.4.4": 26,
    "mesh stable-2.12.6": 25,
    "tests/prefect_linkerd/mesh/rotation/test_traffic.py": 24,
    "tests/sandbox/test_cluster.py": 21,
    "tests/prefect_linkerd/mesh/checks/test_preinstall.py": 20,
}
"""Seconds of what runs in one piece: a group, or the longest test of a file."""


def length(item: pytest.Item) -> int:
    """Seconds that the group of a test takes, or else the test itself."""
    group = item.get_closest_marker("xdist_group")
    name = group.args[0] if group else item.nodeid.partition("::")[0]
    return LENGTHS.get(str(name), 0)


def measured(report: str) -> dict[str, int]:
    """The table of a run, by its JUnit report: what took 20 seconds or longer."""
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
