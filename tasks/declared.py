"""Reads every flow's declaration from its source, without importing the flow.

Importing the flows takes seconds, because each imports its dependencies. The command line, the
deployments and the pages need only the declarations.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from prefect_linkerd.tasks.flow import flow

FOLDER = Path(__file__).parents[1] / "flows"
_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n     .*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a flow, with its text from `Args`.

    `default` is None if it is not a literal: the default is then that of the type.
    """

    name: str
    help: str
    default: object
    _annotation: ast.expr
    _imports: Mapping[str, str]

    @property
    def kind(self) -> Any:
        """Its type; imports the module that has it."""
        return _type(self._annotation, self._imports)


@dataclass(frozen=True)
class DeclaredFlow:
    """A flow and its declaration; its module has the same name."""

    name: str
    declaration: flow
    summary: str
    parameters: tuple[Parameter, ...]

    @property
    def takes_mesh(self) -> bool:
        return any(parameter.name == "mesh" for parameter in self.parameters)


@cache
def declared_flows() -> dict[str, DeclaredFlow]:
    """The flows by name, in alphabetical order."""
    return {path.stem: read_flow(path) for path in sorted(FOLDER.glob("[a-z]*.py"))}


def read_flow(path: Path) -> DeclaredFlow:
    """The flow of a module.

    Raises:
        TypeError: the module has no function of the same name with `@flow(…)`, or one of its
            keywords is unknown, missing or not a literal.
    """
    text = path.read_text()
    # Parse only up to the docstring: `--help` waits for this.
    head = re.search(rf'^def {path.stem}\(.*?""".*?"""', text, re.DOTALL | re.MULTILINE)
    module = ast.parse(text[: head.end()] if head else text)
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == path.stem:
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "flow":
                    return _flow(node, decorator, module)
    raise TypeError(f"{path} has no function {path.stem} with @flow(...)")


def _flow(node: ast.FunctionDef, decorator: ast.Call, module: ast.Module) -> DeclaredFlow:
    try:
        given = {str(k.arg): ast.literal_eval(k.value) for k in decorator.keywords}
        declaration = flow(**given)
    except (TypeError, ValueError) as error:
        raise TypeError(f"@flow(...) of {node.name}: {error}") from None
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    _, _, arguments = text.partition("\nArgs:\n")
    said = {m[1]: " ".join(m[2].split()) for m in _ARGUMENT.finditer(_section(arguments))}
    imports = {
        alias.asname or alias.name: f"{each.module}.{alias.name}"
        for each in module.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    # Parameters without a default come first.
    defaults = [None] * (len(node.args.args) - len(node.args.defaults)) + node.args.defaults
    parameters = tuple(
        Parameter(
            argument.arg,
            said.get(argument.arg, ""),
            default.value if isinstance(default, ast.Constant) else None,
            argument.annotation or ast.Constant(None),
            imports,
        )
        for argument, default in zip(node.args.args, defaults, strict=True)
    )
    summary = " ".join(text.partition("\n\n")[0].split())
    return DeclaredFlow(node.name, declaration, summary, parameters)


def _section(text: str) -> str:
    """The lines before the first one that is not indented."""
    return re.split(r"^(?=\S)", text, maxsplit=1, flags=re.MULTILINE)[0]


def _type(node: ast.expr, imports: Mapping[str, str]) -> Any:
    match node:
        case ast.Name(name) if name in imports:
            module, _, attribute = imports[name].rpartition(".")
            return getattr(import_module(module), attribute)
        case ast.Name(name):
            return getattr(builtins, name)
        case ast.Constant(value):
            return value
        case ast.Subscript(value, index):
            return _type(value, imports)[_type(index, imports)]
        case ast.Tuple(elements):
            return tuple(_type(element, imports) for element in elements)
        case ast.BinOp(left, ast.BitOr(), right):
            return _type(left, imports) | _type(right, imports)
        case _:
            raise TypeError(f"a parameter's type is {ast.unparse(node)}: write a name, or X[Y]")
