"""Which tests take long, so that they begin first and none is left alone at the end.

`python -m tests.lengths junit.xml` prints the table for a run with `--junitxml`.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

LENGTHS: dict[str, int] = {
    "deployments": 900,
    "team": 450,
    "mesh stable-2.14.10": 420,
    "exact roles": 400,
    "smoke": 400,
    "tests/prefect_linkerd/mesh/rotation/test_rotation.py": 360,
    "tests/prefect_linkerd/cli/test_fleet_at_terminal.py": 240,
    "tests/flows/test_upgrade_dependencies.py": 200,
    "tests/flows/test_bootstrap_killed.py": 200,
    "signed": 200,
    "tests/flows/test_upgrade_walk.py": 190,
    "managed": 130,
    "tests/flows/test_theirs.py": 150,
    "tests/flows/test_upgrade_policy.py": 130,
    "tests/prefect_linkerd/mesh/rotation/test_killed.py": 115,
    "tests/prefect_linkerd/mesh/rotation/test_certificate_anchor.py": 110,
    "tests/prefect_linkerd/mesh/helm/test_client.py": 100,
    "tests/prefect_linkerd/mesh/rotation/test_faults.py": 90,
    "tests/flows/test_lost_api_server.py": 80,
    "tests/flows/test_upgrade_hops.py": 75,
    "tests/flows/test_upgrade_probe.py": 70,
    "tests/prefect_linkerd/mesh/probe/test_rotation.py": 70,
    "tests/flows/test_upgrade_killed.py": 70,
    "tests/flows/test_bootstrap_versions.py": 65,
    "tests/flows/test_offline.py": 60,
    "tests/flows/test_adopted_meshes.py": 60,
    "tests/flows/test_rotate_anchor.py": 55,
    "tests/prefect_linkerd/mesh/rotation/test_external_bundle.py": 50,
    "tests/flows/test_watch_charts.py": 50,
    "install": 50,
    "tests/flows/test_upgrade_traffic.py": 60,
    "tests/prefect_linkerd/cli/test_without_server.py": 60,
    "tests/prefect_linkerd/mesh/rotation/test_traffic.py": 50,
    "cert-manager": 45,
    "mesh edge-26.8.3": 40,
    "tests/sandbox/test_cluster.py": 30,
    "tests/prefect_linkerd/mesh/probe/test_run.py": 30,
    "tests/flows/test_secrets.py": 30,
    "mesh stable-2.11.5": 30,
    "mesh stable-2.12.6": 30,
    "mesh edge-25.4.4": 30,
    "crds": 30,
    "tests/project/test_contributing.py": 30,
    "tests/project/test_leaks.py": 25,
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
