"""Every remedy of the product, read from its sources.

A remedy is what is passed to a parameter or field called `remedy`, by keyword or by position: that
of an error, a check's problem, a plan's finding, or a function that creates one of these. What
functions with `remedy` in their names, or of type `Advice`, return is a remedy too.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.repository import ROOT

PACKAGE = "prefect_linkerd"
FOLDERS = ("prefect_linkerd", "tasks", "flows", "deployments")
"""The package, and the folders that it links to."""
HOLE = "…"
"""Stands in a remedy for each part that depends on the situation."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Remedy:
    """One text of a remedy and where it is written; `HOLE` stands for what is filled in."""

    text: str
    place: str


@dataclass
class Module:
    """A module's sources, and what its top-level names mean."""

    path: Path
    tree: ast.Module
    values: dict[str, ast.expr] = field(default_factory=dict[str, ast.expr])
    functions: dict[str, Function] = field(default_factory=dict[str, Function])
    imports: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])


@dataclass(frozen=True)
class Scope:
    """Where a name is looked up: a module and the enclosing functions, innermost first."""

    module: Module
    around: tuple[Function, ...] = ()


def every_remedy() -> list[Remedy]:
    return Sources().remedies()


def about(words: str, texts: Collection[str]) -> list[str]:
    """The remedies that can contain these words; only the identical one if there is one.

    Words that extend into a hole belong to the remedies that share most of them.
    """
    if words in texts:
        return [words]
    if found := [text for text in texts if words in text]:
        return found
    shares = {text: _shared(words, text) for text in texts if HOLE in text}
    most = max(shares.values(), default=0)
    return [text for text, share in shares.items() if share == most and most * 4 > len(words)]


def _shared(words: str, text: str) -> int:
    """How many characters are the text's own if it contains all words once its holes are filled."""
    never = -len(words)
    after = [0] * (len(text) + 1)
    for word in reversed(words):
        now = [never] * (len(text) + 1)
        for at in reversed(range(len(text))):
            if text[at] == HOLE:
                now[at] = max(after[at], now[at + 1])
            elif text[at] == word:
                now[at] = 1 + after[at + 1]
        after = now
    return max(after)


class Sources:
    """The product's modules, and for each callable the positions of its remedies."""

    def __init__(self) -> None:
        self.modules = dict(_modules())
        self.positions: dict[tuple[str, str], set[int]] = {}
        for name, module in self.modules.items():
            for node in ast.walk(module.tree):
                if (found := _position(node)) is not None:
                    self.positions.setdefault((name, found[0]), set()).add(found[1])

    def remedies(self) -> list[Remedy]:
        found: list[Remedy] = []
        for name, module in self.modules.items():
            where = module.path.relative_to(ROOT)
            for call, scope in _calls(module):
                for value in self._passed(call, name):
                    texts = self.texts(value, scope, ())
                    found += [Remedy(text, f"{where}:{value.lineno}") for text in texts]
            for function in module.functions.values():
                if _is_advice(function):
                    texts = self._returned(function.name, Scope(module), ())
                    found += [Remedy(text, f"{where}:{function.lineno}") for text in texts]
        return [r for r in found if any(c.isalpha() for c in r.text)]

    def _passed(self, call: ast.Call, module: str) -> Iterator[ast.expr]:
        yield from (k.value for k in call.keywords if k.arg == "remedy")
        called = _name(call.func)
        origin = self.modules[module].imports.get(called, (module, called))
        for position in self.positions.get(origin, ()):
            if position < len(call.args) and not isinstance(call.args[position], ast.Starred):
                yield call.args[position]

    def texts(self, value: ast.expr, scope: Scope, seen: tuple[str, ...]) -> list[str]:
        """The texts that an expression can have; empty if it only passes a remedy on."""
        match value:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr():
                return [_joined(value)]
            case ast.IfExp():
                return self.texts(value.body, scope, seen) + self.texts(value.orelse, scope, seen)
            case ast.BoolOp(values=values):
                return [t for v in values for t in self.texts(v, scope, seen)]
            case ast.BinOp(op=ast.Add()):
                left, right = (self.texts(v, scope, seen) for v in (value.left, value.right))
                return [a + b for a in left or [HOLE] for b in right or [HOLE]]
            case ast.Name():
                return self._named(value.id, scope, seen)
            case ast.Attribute(attr="remedy"):
                return []
            case ast.Call(func=ast.Attribute(value=inner, attr="format" | "removesuffix" | "get")):
                own = self.texts(inner, scope, seen)
                more = [t for a in value.args[1:] for t in self.texts(a, scope, seen)]
                is_get = isinstance(value.func, ast.Attribute) and value.func.attr == "get"
                return own + more if is_get else [t.replace("{}", HOLE) for t in own]
            case ast.Call():
                return self._returned(_name(value.func), scope, seen)
            case ast.Lambda(body=body):
                return self.texts(body, scope, seen)
            case ast.Subscript():
                return self.texts(value.value, scope, seen)
            case ast.Dict():
                return [t for v in value.values for t in self.texts(v, scope, seen)]
            case ast.Tuple():
                return self.texts(value.elts[-1], scope, seen)
            case _:
                return []

    def _named(self, name: str, scope: Scope, seen: tuple[str, ...]) -> list[str]:
        key = f"{scope.module.path}:{name}"
        if key in seen:
            return []
        for function in scope.around:
            assigned = list(_assigned(function, name))
            if assigned:
                return [t for v in assigned for t in self.texts(v, scope, (*seen, key))]
        if name in scope.module.values:
            return self.texts(scope.module.values[name], Scope(scope.module), (*seen, key))
        if (other := self._imported(name, scope)) is not None:
            return self._named(other[1], Scope(other[0]), (*seen, key))
        return []

    def _returned(self, name: str, scope: Scope, seen: tuple[str, ...]) -> list[str]:
        key = f"{scope.module.path}:{name}()"
        if key in seen:
            return []
        if (function := scope.module.functions.get(name)) is not None:
            inner = Scope(scope.module, (function,))
            returned = [n.value for n in ast.walk(function) if isinstance(n, ast.Return)]
            return [t for v in returned if v for t in self.texts(v, inner, (*seen, key))]
        if (other := self._imported(name, scope)) is not None:
            return self._returned(other[1], Scope(other[0]), (*seen, key))
        return []

    def _imported(self, name: str, scope: Scope) -> tuple[Module, str] | None:
        module, original = scope.module.imports.get(name, ("", ""))
        return (self.modules[module], original) if module in self.modules else None


def _is_advice(function: Function) -> bool:
    returns = ast.unparse(function.returns) if function.returns is not None else ""
    return "remedy" in function.name or function.name == "advice" or returns == "Advice"


def _modules() -> Iterator[tuple[str, Module]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = Module(path, ast.parse(path.read_text()))
            for node in module.tree.body:
                match node:
                    case ast.Assign(targets=[ast.Name(id=name)], value=value):
                        module.values[name] = value
                    case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                        module.values[name] = value
                    case ast.ImportFrom(module=str(source), names=names):
                        for alias in names:
                            module.imports[alias.asname or alias.name] = (source, alias.name)
                    case _:
                        pass
            for node in ast.walk(module.tree):
                if isinstance(node, Function):
                    module.functions.setdefault(node.name, node)
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts if folder == PACKAGE else (PACKAGE, *parts)), module


def _position(node: ast.AST) -> tuple[str, int] | None:
    """The name of a class or function, and the position at which it takes a remedy."""
    if isinstance(node, ast.ClassDef):
        fields = [
            s.target.id
            for s in node.body
            if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
        ]
        return (node.name, fields.index("remedy")) if "remedy" in fields else None
    if isinstance(node, Function):
        names = [a.arg for a in node.args.posonlyargs + node.args.args]
        names = names[1:] if names[:1] in (["self"], ["cls"]) else names
        return (node.name, names.index("remedy")) if "remedy" in names else None
    return None


def _calls(module: Module) -> Iterator[tuple[ast.Call, Scope]]:
    def visit(node: ast.AST, around: tuple[Function, ...]) -> Iterator[tuple[ast.Call, Scope]]:
        if isinstance(node, ast.Call):
            yield node, Scope(module, around)
        inner = (node, *around) if isinstance(node, Function) else around
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    yield from visit(module.tree, ())


def _assigned(function: Function, name: str) -> Iterator[ast.expr]:
    """What a name is set to in a function, also in a tuple or by a loop over literals."""
    for node in ast.walk(function):
        match node:
            case (
                ast.Assign(targets=[target], value=value)
                | ast.NamedExpr(target=target, value=value)
            ):
                yield from _bound(target, value, name)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield from _bound(target, value, name)
            case ast.For(target=target, iter=value):
                yield from _bound(target, value, name)
            case _:
                pass


def _bound(target: ast.expr, value: ast.expr, name: str) -> Iterator[ast.expr]:
    if isinstance(target, ast.Name) and target.id == name:
        yield value
    if isinstance(target, ast.Tuple):
        names = [e.id if isinstance(e, ast.Name) else "" for e in target.elts]
        if name not in names:
            return
        at = names.index(name)
        match value:
            case ast.Tuple(elts=elts) if len(elts) == len(names):
                yield elts[at]
            case ast.IfExp(body=body, orelse=orelse):
                yield from _bound(target, body, name)
                yield from _bound(target, orelse, name)
            case ast.List(elts=elts) | ast.Tuple(elts=elts):
                for each in elts:
                    yield from _bound(target, each, name)
            case _:
                yield value


def _joined(value: ast.JoinedStr) -> str:
    parts = (str(p.value) if isinstance(p, ast.Constant) else HOLE for p in value.values)
    return "".join(parts)


def _name(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""
