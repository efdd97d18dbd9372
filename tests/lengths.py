"""Which tests take long, so that they begin first and none is left alone at the end.

`python -m tests.lengths junit.xml` prints the table for a run with `--junitxml`.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

LENGTHS: dict[str, int] = {
    "deployments": 744,
    "mesh stable-2.14.10": 502,
    "smoke": 353,
    "walk": 346,
    "exact roles": 303,
    "team": 285,
    "tests/flows/test_upgrade_gates.py": 250,
    "signed": 238,
    "tests/flows/test_upgrade_killed.py": 214,
    "tests/flows/test_bootstrap_killed.py": 193,
    "certificate anchor": 156,
    "managed": 137,
    "tests/prefect_linkerd/mesh/rotation/test_rotation.py": 137,
    "tests/prefect_linkerd/cli/test_fleet_at_terminal.py": 135,
    "tests/prefect_linkerd/mesh/helm/test_client.py": 128,
    "tests/flows/test_upgrade_dependencies.py": 119,
    "tests/flows/test_adopted_meshes.py": 84,
    "tests/prefect_linkerd/mesh/rotation/test_killed.py": 71,
    "tests/flows/test_theirs.py": 70,
    "tests/prefect_linkerd/mesh/rotation/test_faults.py": 66,
    "tests/flows/test_watch_charts.py": 66,
    "tests/prefect_linkerd/mesh/probe/test_rotation.py": 65,
    "cert-manager": 62,
    "tests/project/test_leaks.py": 61,
    "tests/flows/test_bootstrap_versions.py": 57,
    "crds": 49,
    "tests/flows/test_plans.py": 48,
    "tests/flows/test_offline.py": 47,
    "tests/prefect_linkerd/mesh/rotation/test_external_bundle.py": 44,
    "tests/flows/test_secrets.py": 50,
    "tests/project/test_docs.py": 42,
    "tests/flows/test_rotate_anchor.py": 41,
    "mesh edge-26.8.3": 40,
    "tests/prefect_linkerd/cli/test_without_server.py": 40,
    "tests/flows/test_upgrade_plain_helm.py": 37,
    "tests/prefect_linkerd/mesh/test_plain_helm.py": 34,
    "mesh edge-25.4.4": 32,
    "tests/prefect_linkerd/mesh/rotation/test_traffic.py": 29,
    "mesh stable-2.12.6": 27,
    "tests/prefect_linkerd/mesh/test_drivers.py": 25,
    "tests/sandbox/test_cluster.py": 24,
    "install": 21,
    "tests/prefect_linkerd/mesh/uninstall/test_run.py": 21,
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
