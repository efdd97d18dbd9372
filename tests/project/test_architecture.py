"""What the layout promises: imports point one way, and the library knows nothing of Prefect."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"

MAY_IMPORT = {
    "mesh": {"mesh"},
    "tasks": {"mesh", "tasks"},
    "flows": {"mesh", "tasks", "flows"},
    "prefect_linkerd": {"mesh", "tasks", "flows", "sandbox", "prefect_linkerd"},
}
OURS = {*MAY_IMPORT, "deployments", "sandbox", "tests", "benchmarks"}


def imported_modules(path: Path) -> set[str]:
    """The modules that a module imports; of `from a import b` it is `a.b` where that is one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if is_module(name)}
            found |= modules if modules == inner else {*modules, node.module}
    return found


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path)}


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


def test_tests_mirror_the_packages() -> None:
    """A folder of tests is of the folder of that name, but for the repository's own tests."""
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS.rglob("test_*.py")}
    assert len(folders) > 8
    assert {str(folder) for folder in folders if not (ROOT / folder).is_dir()} == {"project"}


def test_tests_share_only_what_is_in_tests_support() -> None:
    """Imports between tests stay in a folder, or are of `tests.support`."""
    for module in sorted(TESTS.rglob("*.py")):
        own = ".".join(module.relative_to(ROOT).parent.parts)
        for name in imported_modules(module):
            if name.startswith("tests."):
                assert name.rpartition(".")[0] in (own, "tests.support"), f"{module}: {name}"
