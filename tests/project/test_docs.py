"""Every command of the docs can be given: its program, its subcommand and its flags are there.

The shell blocks of all pages are parsed as a shell would; each command is then held against what
would run it: our own command line and Prefect's by their parsers, kubectl and helm by their help,
modules and make's targets by name. Those that a mesh on a sandbox can take are then run on one;
what is not run is listed with the reason.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest
import yaml

from prefect_linkerd.cli.app import commands, loaded, main
from prefect_linkerd.mesh_file import load_mesh
from sandbox.binaries import Binaries
from tests.support.meshes import PASSPHRASE
from tests.support.ready_meshes import ReadyMesh
from tests.support.repository import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
HEREDOC = re.compile(r"<<'(\w+)'\n(.*?)^ *\1$", re.DOTALL | re.MULTILINE)

OF_OTHERS = {
    "cat": "a file of the example",
    "cp": "a file of the example",
    "cmctl": "cert-manager's program",
    "docker": "builds an image",
    "export": "the shell's own",
    "gpg": "of the system",
    "kind": "makes the cluster of the quick start",
    "openssl": "of the system",
    "pip": "installs the package",
    "set": "the shell's own",
    ".": "the shell's own",
    "shred": "of the system",
    "step": "Smallstep's program",
    "uv": "installs the package",
}
"""Programs that are not looked into, and why they are there."""

TOP = {"--install-completion", "--show-completion", "--version", "--help"}
"""What the command line takes without a command."""


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class Heredoc:
    """A file, or a program, that a page has in its shell."""

    page: str
    mark: str
    text: str


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text()):
            if match[1] == language:
                yield str(page.relative_to(ROOT)), _dedented(match[2])


def _dedented(text: str) -> str:
    lines = text.splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:] for line in lines) + "\n"


@cache
def heredocs() -> tuple[Heredoc, ...]:
    return tuple(
        Heredoc(page, match[1], match[2])
        for page, text in blocks("sh")
        for match in HEREDOC.finditer(text)
    )


@cache
def every_command() -> tuple[Command, ...]:
    return tuple(
        Command(page, words)
        for page, text in blocks("sh")
        for words in split(HEREDOC.sub("\n", text))
    )


def split(text: str) -> Iterator[tuple[str, ...]]:
    """The commands of a script, without redirections and assignments before a command.

    >>> list(split("A=1 b --c 'd e' > f | g # h"))
    [('b', '--c', 'd e'), ('g',)]
    """
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="|&;<>\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    # shlex takes a comment's line end with it.
    lexer.commenters = ""
    words: list[str] = []
    skips = False
    is_comment = False
    for token in lexer:
        is_break = set(token) <= set("|&;\n")
        if is_break and ("\n" in token or not is_comment):
            if words:
                yield tuple(words)
            words, skips, is_comment = [], False, False
        elif is_comment or token.startswith("#"):
            is_comment = True
        elif set(token) <= set("<>"):
            skips = True
        elif skips:
            skips = False
        elif words or not re.fullmatch(r"[A-Z_]+=.*", token):
            words.append(token)
    if words:
        yield tuple(words)


def of(program: str) -> list[Command]:
    return [command for command in every_command() if command.words[0] == program]


def test_every_program_is_known() -> None:
    known = {"prefect-linkerd", "prefect", "kubectl", "helm", "python", "make", *OF_OTHERS}
    assert {c.words[0]: str(c) for c in every_command() if c.words[0] not in known} == {}
    assert {*OF_OTHERS} <= {c.words[0] for c in every_command()}, "say less of others' programs"


@pytest.mark.parametrize("command", of("prefect-linkerd"), ids=str)
def test_our_own_commands(command: Command) -> None:
    name, *rest = command.words[1:]
    if name in TOP:
        return
    assert name in commands(), command
    try:
        loaded(name).make_context(name, rest)
    except click.ClickException as error:
        pytest.fail(f"{command}: {error.format_message()}")


# Run

NOT_RUN = {
    "prefect-linkerd --install-completion": "writes into the home of whoever runs it",
    "prefect-linkerd fleet": "starts a Prefect server; test_fleet_at_terminal runs it",
    "prefect-linkerd new-releases": "needs a Prefect server; test_watch_charts runs it",
    "kubectl": "its flags are looked up in its help",
    "helm": "needs the internet; its flags are looked up in its help",
    "prefect": "needs a server; tests/deployments runs deploy, register and workers",
    "python": "tests/tools, tests/sandbox and tests/deployments run these modules",
    "make": "CI runs these targets, or tests run what they start",
}
"""The beginning of commands that are only parsed, and why; beside `OF_OTHERS`."""

MAY_END = {
    # A mesh without an application may have warnings and errors.
    "verify": {0, 1},
    "certificates": {0},
}
NOTHING_TO = {"abort"}
"""What there is nothing to do for on a mesh that nobody changes: wrong input."""


def why_not_run(command: Command) -> str | None:
    if command.words[0] in OF_OTHERS:
        return OF_OTHERS[command.words[0]]
    text = " ".join(command.words) + " "
    return next((why for start, why in NOT_RUN.items() if text.startswith(f"{start} ")), None)


def test_no_reason_is_for_a_command_that_no_page_has() -> None:
    texts = [" ".join(command.words) + " " for command in every_command()]
    assert [s for s in NOT_RUN if not any(t.startswith(f"{s} ") for t in texts)] == []


def as_run(command: Command) -> tuple[str, ...]:
    """One of our commands on the mesh of the test, and as a plan where it would change it."""
    name, *rest = (re.sub(r"^(\$MESH|\w+\.yaml)$", "mesh.yaml", w) for w in command.words[1:])
    reads = ("verify", "certificates", "status", "adopt")
    more = [] if name in reads or "--dry-run" in rest else ["--dry-run"]
    waits = rest.index("--wait") if "--wait" in rest else None
    if waits is not None:
        rest[waits + 1] = "0"
    return (name, *rest, *more)


@pytest.mark.usefixtures("helm_on_path")
def test_commands_run_on_a_mesh(
    ready_mesh: ReadyMesh,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    sandbox, config = ready_mesh("edge-26.8.3")
    fields = json.loads(config.model_dump_json(exclude={"access"}))
    fields["trust_anchor"].pop("passphrase", None)
    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(fields))
    kubeconfig = yaml.safe_load(sandbox.kubeconfig.read_text())
    context = {**kubeconfig["contexts"][0], "name": "production"}
    kubeconfig |= {"contexts": [context], "current-context": "production"}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("PREFECT_LINKERD_PASSPHRASE", PASSPHRASE.get_secret_value())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deployments").symlink_to(ROOT / "deployments")
    ours = dict.fromkeys(as_run(c) for c in of("prefect-linkerd") if why_not_run(c) is None)
    wrong: list[str] = []
    for words in ours:
        code = main(words)
        said = capfd.readouterr()
        expected = {2} if NOTHING_TO & set(words) else MAY_END.get(words[0], {0})
        if code not in expected or "Traceback" in said.err:
            wrong.append(f"{shlex.join(words)}: {code}: {said.err[-600:]}")
    assert wrong == []


def test_prefects_commands() -> None:
    # Prefect's own parser; nothing is run.
    app = import_module("prefect.cli._app")._app
    assert of("prefect")
    for command in of("prefect"):
        app.parse_args(list(command.words[1:]), exit_on_error=False, print_error=False)


@pytest.mark.parametrize("program", ["kubectl", "helm"])
def test_commands_of_kubernetes(program: str, binaries: Binaries) -> None:
    path = str(getattr(binaries, program))
    everywhere = _help(path, "options") if program == "kubectl" else _help(path, "--help")
    for command in of(program):
        # A namespace may stand before the subcommand.
        given = re.sub(r"(^| )-n \S+", "", " ".join(command.words[1:])).split()
        words = [word for word in given if not word.startswith("-")]
        depth = next((n for n in (3, 2) if " ".join(words[:n]) in LONGER), 1)
        text = _help(path, *words[:depth], "--help") + everywhere
        for flag in (w.partition("=")[0] for w in command.words if re.match(r"--?[a-zA-Z]", w)):
            assert re.search(rf"(^|[\s,]){re.escape(flag)}\b", text), f"{command}: {flag}"


LONGER = {
    "create namespace",
    "create secret generic",
    "create secret tls",
    "create token",
    "repo add",
    "rollout restart",
}
"""Subcommands of several words."""


@cache
def _help(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


@pytest.mark.parametrize("command", [c for c in of("python") if "-m" in c.words], ids=str)
def test_modules(command: Command) -> None:
    at = command.words.index("-m")
    name, *rest = command.words[at + 1 :]
    found = importlib.util.find_spec(name)
    assert found is not None, command
    assert found.origin is not None
    path = Path(found.origin)
    files = path.parent.glob("*.py") if found.submodule_search_locations else [path]
    source = "\n".join(file.read_text() for file in files)
    for flag in (word for word in rest if word.startswith("--")):
        assert f'"{flag}"' in source, f"{command}: {flag}"


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {c.words[1] for c in of("make")} <= targets


def test_the_meshes_of_the_pages(tmp_path: Path) -> None:
    files = [each for each in heredocs() if each.mark == "YAML"]
    assert files
    for each in files:
        path = tmp_path / "mesh.yaml"
        path.write_text(each.text)
        load_mesh(path)
    for page, text in blocks("yaml"):
        assert yaml.safe_load(text) is not None, page


def test_the_programs_of_the_pages() -> None:
    # Others are parts of a file.
    programs = [text for _, text in blocks("python") if text.startswith(("import", "from"))]
    programs += [each.text for each in heredocs() if each.mark == "PY"]
    assert programs
    for text in programs:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                module = import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), text


# Troubleshooting


def _texts() -> str:
    """Every text of the product, one a line; `…` where something is filled in."""
    found: list[str] = []
    for folder in ("prefect_linkerd", "tasks", "flows", "deployments"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_every_error_of_the_troubleshooting_page_is_there() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    rows = re.findall(r"^\| (`.*?`(?: … `.*?`)*) \|", page, re.MULTILINE)
    said = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(said) > 30
    texts = _texts()
    assert [text for text in said if text not in texts] == []


def test_links_of_the_pages_lead_somewhere() -> None:
    wrong: list[str] = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+\.(?:md|png|yaml))(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                wrong.append(f"{page.name}: {target}")
    assert wrong == []
