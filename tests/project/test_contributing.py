"""The tasks of CONTRIBUTING.md, done in a copy of the checkout as the page describes."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_linkerd import flows
from tests.support.ready_meshes import ReadyMesh
from tests.support.repository import ROOT

pytestmark = pytest.mark.slow
one_copy = pytest.mark.xdist_group("contributing")

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLE = re.compile(
    r"^```\w+\n(?:# |<!-- )(?P<path>[\w/]+\.\w+)(?:, in (?P<table>\w+))?(?: -->)?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
COMMANDS = re.findall(r"^python -m ([\w.]+)( \w+)?(?: > (\S+))?$", PAGE, re.MULTILINE)
RUN = """
import contextlib, io, json, pathlib, runpy, sys
for module, argument, target in json.loads(sys.argv[1]):
    sys.argv = [module, *argument.split()]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        runpy.run_module(module, run_name="__main__")
    if target:
        pathlib.Path(target).write_text(said.getvalue())
"""
"""Runs the commands in one process, as they all import the same."""

LEFT_OUT = shutil.ignore_patterns(".venv", ".git", ".uv", "__pycache__", ".*_cache", "images")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with every example of the page and the output of its commands."""
    folder = tmp_path_factory.mktemp("copy") / "project"
    shutil.copytree(ROOT, folder, symlinks=True, ignore=LEFT_OUT)
    for example in EXAMPLE.finditer(PAGE):
        add(folder / example["path"], example["table"], example["text"])
    done = python(folder, "-c", RUN, json.dumps(COMMANDS))
    assert done.returncode == 0, done.stderr
    return folder


def add(path: Path, table: str | None, text: str) -> None:
    """Adds an example to a file: at its end, or before the last line of a table."""
    if table is None:
        with path.open("a") as file:
            file.write(f"\n\n{text}" if path.suffix == ".py" and path.stat().st_size else text)
        return
    lines = path.read_text().splitlines(keepends=True)
    [end] = [
        node.end_lineno
        for node in ast.parse("".join(lines)).body
        if isinstance(node, ast.Assign | ast.AnnAssign) and table in ast.unparse(node).split("=")[0]
    ]
    assert end is not None
    path.write_text("".join([*lines[: end - 1], text, *lines[end - 1 :]]))


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with the copy's modules: its working directory is first on the path."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_page_has_the_three_tasks() -> None:
    found = [example["path"] for example in EXAMPLE.finditer(PAGE)]
    kinds = {path: (ROOT / path).exists() for path in found}
    # A check and a version change existing files; a flow is two new files and a page.
    assert list(kinds.values()) == [True, True, True, False, False, False], found
    assert len(COMMANDS) == 3


@one_copy
def test_what_the_page_adds_lacks_nothing(copy: Path) -> None:
    """Runs those of the tests that name missing parts that need only Python."""
    done = python(
        copy,
        *("-m", "pytest", "-q", "-m", "fast", "-p", "no:cacheprovider"),
        "tests/project/test_flows.py::test_a_flow_lacks_nothing[list_owners]",
        "tests/project/test_flows.py::test_what_is_read_is_what_python_has[list_owners]",
        "tests/prefect_linkerd/mesh/linkerd/test_facts.py::test_no_row_lacks_anything",
        "tests/tools/test_checks_page.py::test_the_page_is_up_to_date",
        "tests/prefect_linkerd/mesh/checks/test_faults_beyond.py",
        "tests/flows/test_list_owners.py",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    help_ = python(copy, "-m", "prefect_linkerd", "owners", "--help").stdout
    assert "List who owns each part of a mesh; change nothing." in help_


def test_the_flow_of_the_page_passes_its_own_test(
    ready_mesh: ReadyMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs here and not in the copy, whose mesh would have to be installed first."""
    for example in EXAMPLE.finditer(PAGE):
        (tmp_path / Path(example["path"]).name).write_text(example["text"])
    monkeypatch.setattr(flows, "__path__", [*flows.__path__, str(tmp_path)])
    runpy.run_path(str(tmp_path / "test_list_owners.py"))["test_the_owners_of_a_mesh_are_listed"](
        ready_mesh
    )


@one_copy
def test_the_examples_are_typed_and_formatted_as_the_project_is(copy: Path) -> None:
    paths = {example["path"] for example in EXAMPLE.finditer(PAGE) if example["path"][-2:] == "py"}
    for command in ("check", "format"):
        more = ["--check"] if command == "format" else []
        done = python(copy, "-m", "ruff", command, *more, *sorted(paths))
        assert done.returncode == 0, done.stdout
    (copy / ".venv").symlink_to(sys.prefix)
    ours = sorted(path for path in paths if not path.startswith("tests/"))
    done = python(copy, "-m", "pyright", *ours)
    assert done.returncode == 0, done.stdout
