"""A flow is declared once, in its own module; these tests name what a newly declared one lacks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from prefect_linkerd.cli.flags import flags_of, parameters_of
from prefect_linkerd.deployments import grants
from prefect_linkerd.tasks.declared import FOLDER, DeclaredFlow, declared_flows, read_flow
from tests.support.repository import ROOT
from tools.flow_lists import pages

FLOWS = declared_flows()


def lacks(flow: DeclaredFlow) -> Iterator[str]:
    """What a flow still needs."""
    declared = flow.declaration
    if not re.fullmatch(r"[A-Z`][^\n]+\.", flow.summary):
        yield "a first paragraph of its docstring: one sentence, for its help and its deployment"
    for parameter in flow.parameters:
        if not parameter.help:
            yield f"a line of Args for {parameter.name}"
    name, _, section = declared.page.partition("#")
    page = ROOT / "docs" / name
    if not page.is_file():
        yield f"its page docs/{name}"
    else:
        text = page.read_text()
        anchors = {
            re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE)
        }
        if section and section not in anchors:
            yield f"the section #{section} of docs/{name}"
        if not re.search(rf"\b({flow.name}|{declared.command or flow.name})\b", text):
            yield f"its name in docs/{name}"
    if declared.grants and not callable(getattr(grants, declared.grants, None)):
        yield f"the function {declared.grants} in deployments/grants.py"
    if declared.grants and not (ROOT / f"deployments/rbac/{flow.name}.yaml").is_file():
        yield "its role: run python -m prefect_linkerd.deployments.roles"
    if not any(re.search(rf"\b{flow.name}\b", text) for text in TESTS):
        yield f"a test: tests/flows/test_{flow.name}.py"
    flags = [flag.name for flag in flags_of(parameters_of(flow))]
    for flag in {flag for flag in flags if flags.count(flag) > 1}:
        yield f"a second name for --{flag}, which two of its options have"
    for path, text in pages().items():
        if path.read_text() != text:
            yield f"its entry in {path.name}: run python -m tools.flow_lists"


TESTS = [
    path.read_text()
    for path in (ROOT / "tests").rglob("*.py")
    if ROOT / "tests/project" not in path.parents
]


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_a_flow_lacks_nothing(flow: DeclaredFlow) -> None:
    assert [*lacks(flow)] == []


def test_what_a_new_flow_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "greet_mesh.py"
    path.write_text(GREET)
    assert [*lacks(read_flow(path))] == [
        "a line of Args for often",
        "its page docs/greet.md",
        "the function greetings in deployments/grants.py",
        "its role: run python -m prefect_linkerd.deployments.roles",
        "a test: tests/flows/test_greet_mesh.py",
    ]


GREET = '''
@flow(run_name="greet {mesh.name}", changes=False, page="greet.md", grants="greetings")
def greet_mesh(mesh: LinkerdMesh, often: int = 1) -> str:
    """Greet a mesh.

    Args:
        mesh: Which mesh,
            and where.
    """
'''


def test_a_declaration_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "greet_mesh.py"
    path.write_text(GREET)
    flow = read_flow(path)
    assert flow.summary == "Greet a mesh."
    assert flow.parameters[0].help == "Which mesh, and where."
    assert (flow.parameters[1].kind, flow.parameters[1].default) == (int, 1)
    for wrong, said in (
        (GREET.replace("page=", "pages="), "unexpected keyword argument 'pages'"),
        (
            GREET.replace('page="greet.md", ', ""),
            "missing 1 required keyword-only argument",
        ),
        (GREET.replace("changes=False", "changes=CHANGES"), "malformed node"),
        (GREET.replace("def greet_mesh", "def greet"), "has no function greet_mesh with @flow"),
    ):
        path.write_text(wrong)
        with pytest.raises(TypeError, match=re.escape(said)):
            read_flow(path)


@pytest.mark.parametrize("name", FLOWS)
def test_what_is_read_is_what_python_has(name: str) -> None:
    """What is read from the source matches the imported flow."""
    module = import_module(f"prefect_linkerd.flows.{name}")
    found = getattr(module, name)
    wanted = inspect.signature(found.fn, eval_str=True).parameters
    flow = FLOWS[name]
    assert [p.name for p in flow.parameters] == [*wanted]
    for parameter in flow.parameters:
        real = wanted[parameter.name]
        assert parameter.kind == real.annotation
        if parameter.default is not None:
            assert parameter.default == real.default
    assert found.flow_run_name == flow.declaration.run_name
    assert found.description.replace("\n", " ").startswith(flow.summary)


def test_commands_are_named_apart() -> None:
    commands = [f.declaration.command for f in FLOWS.values() if f.declaration.command]
    assert len(commands) == len(set(commands))
    # At a terminal, `fleet` is for several meshes.
    assert [n for n, f in FLOWS.items() if not f.declaration.command] == ["verify_meshes"]


def test_the_lists_of_flows_are_up_to_date() -> None:
    for path, text in pages().items():
        assert path.read_text() == text, "run python -m tools.flow_lists"
    first, *_ = FLOWS.values()
    renamed = replace(first, name="greet_mesh")
    [yaml, readme] = pages([renamed]).values()
    assert "- name: linkerd-greet-mesh\n    entrypoint: prefect_linkerd.flows.greet_mesh." in yaml
    assert "| [`greet_mesh`](docs/" in readme


def test_each_flow_is_in_the_module_of_its_name() -> None:
    assert {path.stem for path in FOLDER.glob("[a-z]*.py")} == FLOWS.keys()
