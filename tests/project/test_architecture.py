"""The rules of the layout, besides the contracts in pyproject.toml that `lint-imports` checks."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.repository import ROOT

TESTS = ROOT / "tests"

SOURCES = ("prefect_linkerd", "flows", "tasks", "deployments", "sandbox", "tests", "benchmarks")


def imported_modules(path: Path) -> set[str]:
    """The modules that a module imports; for `from a import b`, `a.b` if that is a module."""
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


def test_steps_meet_prefect_in_few_places() -> None:
    """So that a command at a terminal without a server need not import Prefect."""
    of_servers = {"on_prefect", "mesh_block", "flow", "step", "fleet", "chart_releases"}
    of_servers |= {"verify_meshes", "watch_charts"}
    for module in (*(ROOT / "tasks").rglob("*.py"), *(ROOT / "flows").rglob("*.py")):
        roots = {name.partition(".")[0] for name in imported_modules(module)}
        names = {name for name in roots - {"prefect_linkerd"} if name.startswith("prefect")}
        assert not names or module.stem in of_servers, module


def test_waits_with_a_deadline_are_written_once() -> None:
    """In `polls`; and in the program of the probe's pods, which has only the standard library."""
    own = {"prefect_linkerd/mesh/kubernetes/waiting.py", "prefect_linkerd/mesh/load/program.py"}
    found = {
        str(path.relative_to(ROOT))
        for package in ("prefect_linkerd", "flows", "tasks", "deployments")
        for path in (ROOT / package).rglob("*.py")
        if "deadline = time.monotonic()" in path.read_text()
    }
    assert found == own


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    names = {path.stem for package in SOURCES for path in (ROOT / package).rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


def test_tests_mirror_the_packages() -> None:
    """A folder of tests belongs to the folder with its name; only `project` has none."""
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS.rglob("test_*.py")}
    assert len(folders) > 8
    assert {str(folder) for folder in folders if not (ROOT / folder).is_dir()} == {"project"}


def test_tests_share_only_what_is_in_tests_support() -> None:
    """Tests import only from their own folder or from `tests.support`."""
    for module in sorted(TESTS.rglob("*.py")):
        own = ".".join(module.relative_to(ROOT).parent.parts)
        for name in imported_modules(module):
            if name.startswith("tests."):
                assert name.rpartition(".")[0] in (own, "tests.support"), f"{module}: {name}"
