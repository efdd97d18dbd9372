"""Runs the docs' commands, as they are on the pages, on an installed mesh.

Our own run in this process. Those of kubectl, helm and the system run in a shell, line by line,
with their pipes, in the order of the pages. Commands that another test runs, or that cannot run
here, are listed with the reason; their parts are checked against the programs that would run them.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import click
import pytest
import yaml

from prefect_linkerd.cli.app import commands, loaded, main
from prefect_linkerd.mesh.identity.trust_anchor import ClusterKeyStore
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh_file import load_mesh
from sandbox.binaries import Binaries
from tests.support.crds import crd
from tests.support.meshes import PASSPHRASE, store_of
from tests.support.pages import (
    PAGES,
    Command,
    Line,
    blocks,
    every_command,
    every_line,
    heredocs,
    of,
    programs,
)
from tests.support.ready_meshes import ReadyMesh
from tests.support.repository import ROOT
from tests.support.workloads import deployment

TOP = {"--install-completion", "--show-completion", "--version", "--help"}
"""Options that the command line accepts without a command."""


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
    "prefect": "needs a server; tests/deployments/test_documented_commands.py runs them",
    "python -": "as those of prefect",
    "python -m prefect_linkerd.deployments.register": "as those of prefect",
    "python -m prefect_linkerd.deployments.roles list_owners": "test_contributing runs it",
    "python -m tools": "test_contributing runs them",
    "python -m sandbox team": "tests/deployments/team runs what it starts",
    "python -m sandbox": "test_up_and_down runs them",
    "make": "a whole run each, of tests, a demo or downloads; below, make plans them",
    "cat": "the files that it writes are loaded below",
    ". ~/.local/state/prefect-linkerd/demo.sh": "the demo writes it",
    "cmctl": "cert-manager's program",
    "docker": "builds an image",
    "kind": "needs Docker",
    "step": "Smallstep's program; here the test writes what it would",
    "uv": "installs the package; test_install does",
}
"""The beginnings of commands that do not run here, and why."""

MAY_END = {
    # A mesh without an application may have warnings and errors.
    "verify": {0, 1},
    "certificates": {0},
}
FAILS_WITHOUT_RUN = {"abort"}
"""Commands that fail with wrong input, as no run is changing the mesh."""


def why_not_run(command: Command) -> str | None:
    reasons = (why for start, why in NOT_RUN.items() if begins(command, start))
    return next(reasons, None)


def begins(command: Command, start: str) -> bool:
    return re.match(rf"{re.escape(start)}(?![\w-])", command.text) is not None


def runs_here(line: Line) -> bool:
    return not any(why_not_run(command) for command in line.commands)


def test_no_reason_is_for_a_command_that_no_page_has() -> None:
    found = every_command()
    assert [s for s in NOT_RUN if not any(begins(c, s) for c in found)] == []


def as_run(command: Command) -> tuple[str, ...]:
    """One of our commands on the test's mesh, as a dry run if it would change the mesh."""
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
    binaries: Binaries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    sandbox, config = ready_mesh("edge-26.8.3")
    cluster = sandbox.cluster()
    fields = json.loads(config.model_dump_json(exclude={"access"}))
    fields["trust_anchor"].pop("passphrase", None)
    for name in ("mesh.yaml", "production.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(fields))
    kubeconfig = yaml.safe_load(sandbox.kubeconfig.read_text())
    context = {**kubeconfig["contexts"][0], "name": "production"}
    kubeconfig |= {"contexts": [context], "current-context": "production"}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("PREFECT_LINKERD_PASSPHRASE", PASSPHRASE.get_secret_value())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deployments").symlink_to(ROOT / "deployments")
    # In the order of the pages, without duplicates.
    lines = dict.fromkeys(line.text for line in every_line() if runs_here(line))
    ours = dict.fromkeys(as_run(c) for c in of("prefect-linkerd") if why_not_run(c) is None)
    pair = store_of(cluster, config).load()
    assert pair is not None
    kept = ClusterKeyStore(cluster, "linkerd")
    kept.store_once(pair)
    _write_what_they_need(cluster, tmp_path, pair.certificate, pair.private_key.get_secret_value())
    wrong: list[str] = []
    with _prefects_charts(tmp_path / "charts") as charts:
        environment = _shell(tmp_path, binaries)
        for text in lines:
            if text.startswith("prefect-linkerd "):
                continue
            if text.startswith("gpg --decrypt"):
                # Lose the key that this command restores.
                kept.remove()
            there = text.replace("/mnt/backup", "backup").replace(PREFECTS_CHARTS, charts)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", there],
                env=environment,
                input=f"{PASSPHRASE.get_secret_value()}\n",
                capture_output=True,
                text=True,
                # At a terminal openssl would prompt, so run without one.
                start_new_session=True,
                timeout=120,
                check=False,
            )
            if done.returncode:
                wrong.append(f"{text}: {done.returncode}: {done.stderr[-600:]}")
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], env=environment, check=True)
    assert wrong == []
    assert kept.load() == pair
    for words in ours:
        code = main(words)
        said = capfd.readouterr()
        expected = {2} if FAILS_WITHOUT_RUN & set(words) else MAY_END.get(words[0], {0})
        if code not in expected or "Traceback" in said.err:
            wrong.append(f"{shlex.join(words)}: {code}: {said.err[-600:]}")
    assert wrong == []


PREFECTS_CHARTS = "https://prefecthq.github.io/prefect-helm"


@contextmanager
def _prefects_charts(folder: Path) -> Iterator[str]:
    """The address of a repository with empty charts that have the names of Prefect's."""
    folder.mkdir()
    entries: dict[str, list[dict[str, object]]] = {}
    for name in ("prefect-server", "prefect-worker"):
        chart = {"apiVersion": "v2", "name": name, "version": "1.0.0"}
        (folder / name).mkdir()
        (folder / name / "Chart.yaml").write_text(yaml.safe_dump(chart))
        with tarfile.open(folder / f"{name}.tgz", "w:gz") as package:
            package.add(folder / name, name)
        entries[name] = [{**chart, "urls": [f"{name}.tgz"]}]
    (folder / "index.yaml").write_text(yaml.safe_dump({"apiVersion": "v1", "entries": entries}))
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _shell(folder: Path, binaries: Binaries) -> dict[str, str]:
    """The environment of a user who follows the pages: their programs and home folders."""
    secrets = folder / "gnupg"
    secrets.mkdir(mode=0o700)
    (secrets / "passphrase").write_text(PASSPHRASE.get_secret_value())
    (secrets / "gpg.conf").write_text(
        f"batch\npinentry-mode loopback\npassphrase-file {secrets / 'passphrase'}\n"
    )
    programs = (binaries.kubectl.parent, binaries.helm.parent, Path(sys.executable).parent)
    return os.environ | {
        "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
        "GNUPGHOME": str(secrets),
        "HELM_CONFIG_HOME": str(folder / "helm"),
        "HELM_CACHE_HOME": str(folder / "helm"),
        "HELM_DATA_HOME": str(folder / "helm"),
    }


def _write_what_they_need(cluster: Cluster, folder: Path, certificate: str, key: str) -> None:
    """Creates what a page's commands expect: what `step` writes, an application, an operator."""
    (folder / "backup").mkdir()
    (folder / "anchor.pem").write_bytes((folder / "anchor.key").read_bytes())
    (folder / "ca.crt").write_text(certificate)
    (folder / "ca.key").write_text(key)
    for name in ("apps", "monitoring"):
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.create(deployment("web", "apps"))
    rules = crd("monitoring.coreos.com", "PrometheusRule")
    rules["spec"]["versions"][0]["name"] = "v1"
    cluster.create(rules)


def test_prefects_commands() -> None:
    # Only Prefect's own parser runs.
    app = import_module("prefect.cli._app")._app
    assert of("prefect")
    for command in of("prefect"):
        app.parse_args(list(command.words[1:]), exit_on_error=False, print_error=False)


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


@pytest.mark.parametrize("command", dict.fromkeys(c.words for c in of("make")), ids=shlex.join)
def test_make_knows_what_to_do(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_extras_of_the_pages_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    wanted = {c.words[c.words.index("--extra") + 1] for c in of("uv") if "--extra" in c.words}
    assert wanted
    assert wanted <= extras.keys()


def test_the_meshes_of_the_pages(tmp_path: Path) -> None:
    files = [each for each in heredocs() if each.mark == "YAML"]
    assert files
    for each in files:
        path = tmp_path / "mesh.yaml"
        path.write_text(each.text)
        load_mesh(path, key="place")
    for page, text in blocks("yaml"):
        assert yaml.safe_load(text) is not None, page


def test_the_programs_of_the_pages() -> None:
    assert programs()
    for text in programs():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                module = import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), text


# Troubleshooting


def _texts() -> str:
    """Every text of the product, one per line, with `…` for each part that is filled in."""
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
