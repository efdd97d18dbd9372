"""What the layout promises: imports point one way, and the library knows nothing of Prefect."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAY_IMPORT = {
    "mesh": {"mesh"},
    "tasks": {"mesh", "tasks"},
    "flows": {"mesh", "tasks", "flows"},
    "prefect_linkerd": {"mesh", "tasks", "flows", "sandbox", "prefect_linkerd"},
}
OURS = {*MAY_IMPORT, "deployments", "sandbox", "tests", "benchmarks"}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    for module in modules:
        assert imported(module) & OURS <= MAY_IMPORT[package], module


def test_the_library_knows_nothing_of_prefect() -> None:
    for module in (ROOT / "mesh").rglob("*.py"):
        assert not {name for name in imported(module) if name.startswith("prefect")}, module


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    names = {path.stem for package in OURS for path in (ROOT / package).rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
