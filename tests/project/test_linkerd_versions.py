"""Only the room `mesh.linkerd` knows Linkerd versions: nothing else names or compares one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.repository import ROOT

PACKAGES = ("prefect_linkerd", "tasks", "flows", "deployments", "sandbox", "tools")
ROOM = "prefect_linkerd/mesh/linkerd/"

LITERAL, COMPARISON, CHART = "names a version", "compares versions", "names the one chart"
ALLOWED: dict[tuple[str, str], str] = {
    (
        "prefect_linkerd/mesh/config/model.py",
        LITERAL,
    ): "the default version, and examples in descriptions",
    (
        "prefect_linkerd/mesh/upgrade/path.py",
        COMPARISON,
    ): "which release follows which is their order",
    (
        "prefect_linkerd/mesh/checks/preflight.py",
        LITERAL,
    ): "tells a user of 2.11 about the upgrade flow",
    (
        "prefect_linkerd/mesh/upgrade/plan.py",
        LITERAL,
    ): "addresses of Linkerd's documentation; 2.11's one chart",
    ("prefect_linkerd/mesh/planning/chart_split.py", CHART): "becomes two charts there",
    ("prefect_linkerd/mesh/adoption.py", CHART): "which of both charts is installed",
    (
        "prefect_linkerd/mesh/helm/installed.py",
        CHART,
    ): "a table by chart; its mark is not an own part",
    ("prefect_linkerd/mesh/checks/preflight.py", CHART): "an upgrade makes two of its release",
    ("prefect_linkerd/mesh/snapshot/webhooks.py", CHART): "a table by chart",
    ("prefect_linkerd/mesh/helm/values.py", CHART): "tables by chart",
    ("prefect_linkerd/mesh_file.py", LITERAL): "an example of a field",
    ("tools/checks_page.py", LITERAL): "the preface of docs/checks.md",
}

NAME = re.compile(r"\b(?:stable|edge)-\d|(?<![\d.])2\.1\d\b")
ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def is_version(node: ast.expr) -> bool:
    """Whether a tuple is the numbers of a Linkerd version: (2, 12), (2, 12, 0) or (24, 3, 1)."""
    if not isinstance(node, ast.Tuple):
        return False
    match [part.value if isinstance(part, ast.Constant) else None for part in node.elts]:
        case [2, int(minor)] | [2, int(minor), int()]:
            return minor >= 10
        case [int(year), int(month), int()]:
            return 21 <= year < 40 and 1 <= month <= 12
        case _:
            return False


def docstrings(tree: ast.AST) -> set[ast.expr]:
    """The texts that stand alone: docstrings of modules, classes, functions and attributes."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def annotated(tree: ast.AST) -> Iterator[str]:
    """The names that a module annotates as versions."""
    for node in ast.walk(tree):
        match node:
            case ast.arg(arg=name, annotation=ast.expr() as annotation):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                pass
            case ast.FunctionDef(name=name, returns=ast.expr() as annotation):
                pass
            case _:
                continue
        if re.fullmatch(r"LinkerdVersion( \| None)?", ast.unparse(annotation)):
            yield name


def findings(tree: ast.AST, versions: set[str]) -> Iterator[tuple[str, str]]:
    """What a module knows about versions: the kind of knowledge, and where it is."""
    documentation = docstrings(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if node not in documentation and NAME.search(text):
                yield LITERAL, f"{node.lineno}: {text[:60]!r}"
            case ast.Constant(value="linkerd2"):
                yield CHART, f"{node.lineno}"
            case ast.Tuple() if is_version(node):
                yield LITERAL, f"{node.lineno}: {ast.unparse(node)}"
            case ast.Compare() if compares(node, versions):
                yield COMPARISON, f"{node.lineno}: {ast.unparse(node)}"
            case _:
                pass


def compares(node: ast.Compare, versions: set[str]) -> bool:
    sides = [node.left, *node.comparators]
    names = {ast.unparse(side).rpartition(".")[2] for side in sides}
    literals = {side.value for side in sides if isinstance(side, ast.Constant)}
    if names & {"numbers"} or literals & {"stable", "edge"}:
        return True
    return any(isinstance(op, ORDER) for op in node.ops) and bool(names & versions)


def modules() -> dict[str, ast.AST]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], list[str]]:
    trees = modules()
    versions = {name for tree in trees.values() for name in annotated(tree)}
    assert {"version", "source", "target", "linkerd"} <= versions
    known: dict[tuple[str, str], list[str]] = {}
    for path, tree in trees.items():
        if not path.startswith(ROOM):
            for kind, where in findings(tree, versions):
                known.setdefault((path, kind), []).append(f"{path}:{where}")
    return known


def test_nothing_else_knows_a_version(found: dict[tuple[str, str], list[str]]) -> None:
    new = {key: places for key, places in found.items() if key not in ALLOWED}
    assert not new, "ask release_facts of mesh.linkerd.facts instead"


def test_every_exception_is_in_use(found: dict[tuple[str, str], list[str]]) -> None:
    assert ALLOWED.keys() <= found.keys()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("x = 'stable-2.15.0'", LITERAL),
        ("x = f'not before edge-{x}, or edge-26.1.1'", LITERAL),
        ("x = 'until 2.12'", LITERAL),
        ("chart = 'linkerd2' if one else 'linkerd-crds'", CHART),
        ("SINCE = (2, 12)", LITERAL),
        ("f(since=(24, 3, 1))", LITERAL),
        ("snapshot.version.numbers >= FIRST", COMPARISON),
        ("config.linkerd.channel == 'edge'", COMPARISON),
        ("snapshot.target >= FIRST", COMPARISON),
        ("'''Since stable-2.12.'''", ""),
        ("x = '10.2.12.1', (8, 2, 1), (2, 3)", ""),
        ("version == newest", ""),
    ],
)
def test_knowledge_of_a_version_is_found(code: str, kind: str) -> None:
    kinds = {each for each, _ in findings(ast.parse(code), {"version", "target"})}
    assert kinds == ({kind} if kind else set())
