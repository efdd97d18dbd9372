"""The examples in docstrings are true."""

from __future__ import annotations

import ast
import doctest
from importlib import import_module
from pathlib import Path

import pytest

from prefect_linkerd.tasks.declared import declared_flows
from tests.support.repository import ROOT

LIBRARY = ROOT / "prefect_linkerd" / "mesh"
WITH_EXAMPLES = sorted(path for path in LIBRARY.rglob("*.py") if ">>> " in path.read_text())


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_an_example_of_the_library_prints_what_it_says(path: Path) -> None:
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    # Names that only the examples need, besides the module's own.
    names = {**vars(module), "SimpleNamespace": import_module("types").SimpleNamespace}
    found = doctest.testmod(module, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0
    assert found.attempted or "+SKIP" in path.read_text()


@pytest.mark.parametrize("name", declared_flows())
def test_a_flow_has_an_example_with_parameters_that_it_has(name: str) -> None:
    """It needs a mesh, so it is not run, but its calls are checked against the parameters."""
    tree = ast.parse((ROOT / "flows" / f"{name}.py").read_text())
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    examples = doctest.DocTestParser().get_examples(ast.get_docstring(function) or "")
    calls = [
        node
        for example in examples
        for node in ast.walk(ast.parse(example.source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]
    assert calls
    known = {arg.arg for arg in (*function.args.args, *function.args.kwonlyargs)}
    for call in calls:
        assert {keyword.arg for keyword in call.keywords} <= known
