"""Following the advice of the command line: the command starts."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from prefect_linkerd.cli.app import main
from prefect_linkerd.cli.key_place import PASSPHRASE, is_chosen, with_place
from prefect_linkerd.cli.target import confirm_target
from prefect_linkerd.cli.user_server import has_server
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.rotation.options import dry_action
from prefect_linkerd.mesh_file import load_fleet, load_mesh
from prefect_linkerd.server.own_server import home
from prefect_linkerd.server.own_worker import _single_fleet_lock
from tests.support.advice import advice, follows


@follows("Give only one of them. A dry run shows the plan of a rotation.")
def test_advice_about_a_dry_run() -> None:
    advice(InvalidInput, lambda: dry_action("abort"))
    assert dry_action("rotate") == "dry_run"


@follows(
    "Name an existing file with lines such as `version: edge-26.8.3`.",
    "Correct these fields.",
    "Write it like --set access.context=production.",
)
def test_advice_about_a_meshs_file(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    for text in (None, "a: [", "just text"):
        if text:
            file.write_text(text)
        line = advice(InvalidInput, lambda: load_mesh(file)).split("`")[1]
    file.write_text(line)
    assert load_mesh(file).version == "edge-26.8.3"

    file.write_text("ha: perhaps\n")
    advice(InvalidInput, lambda: load_mesh(file))
    file.write_text("ha: true\n")
    assert load_mesh(file).ha

    words = advice(InvalidInput, lambda: load_mesh(file, settings=["access.context"]))
    setting = words.removesuffix(".").rpartition("--set ")[2]
    assert load_mesh(file, settings=[setting]).access.context == "production"


@follows(
    "Give each mesh a name of its own.",
    "Name files that exist, or only blocks of your Prefect server.",
    "Name the files, or set PREFECT_API_URL.",
)
def test_advice_about_the_files_of_a_fleet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path(f"{name}.yaml").write_text("name: north\n")
    paths = [Path("one.yaml"), Path("two.yaml")]
    advice(InvalidInput, lambda: load_fleet(paths))
    paths[1].write_text("name: south\n")
    assert list(load_fleet(paths)) == ["north", "south"]

    def fleet(*meshes: str) -> str:
        # Valid names fail later, when the command asks for a place for the key.
        assert main(["fleet", "--deployment", "bootstrap", *meshes]) == 2
        return capsys.readouterr().err

    assert "Name files that exist" in fleet("one.yaml", "lost.yaml")
    assert "--key-file" in fleet("one.yaml", "two.yaml")
    assert "Name the files, or set PREFECT_API_URL." in fleet("north", "south")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert has_server()


@follows("Wait until it finishes.")
def test_advice_about_a_second_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    home().mkdir(parents=True)

    def begin() -> None:
        with _single_fleet_lock():
            pass

    with _single_fleet_lock():
        advice(InvalidInput, begin)
    begin()


@follows("Give --key-file FILE and its passphrase in")
def test_advice_about_a_place_for_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    words = advice(InvalidInput, lambda: with_place(MeshConfig(), "rotate_anchor"))
    assert PASSPHRASE in words
    monkeypatch.setenv(PASSPHRASE, "correct horse " * 2)
    key_file = {"key_file": str(tmp_path / "anchor.pem")}
    for anchor in (key_file, {"custody": "in-cluster"}):
        file = tmp_path / "mesh.json"
        file.write_text(json.dumps({"trust_anchor": anchor}))
        assert is_chosen(with_place(load_mesh(file, key="asked"), "rotate_anchor"))
    for flags in (["--key-file", "anchor.pem"], ["--key-in-cluster"]):
        # The flags are accepted: the only error is that the mesh does not exist.
        assert main(["rotate-anchor", "no-such-mesh.yaml", *flags]) == 2
        assert "mesh no-such-mesh.yaml: expected" in capsys.readouterr().err


@follows(
    "Name the mesh's file, or add --yes. --dry-run needs neither.",
    "Nothing was changed. Choose another cluster by --context or --kubeconfig, or write a mesh",
)
def test_advice_before_bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = {"cluster": "c", "user": "u"}
    entries = {
        "current-context": "a",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": name, "context": context} for name in ("a", "b")],
    }
    file = tmp_path / "config"
    file.write_text(json.dumps(entries))
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    advice(InvalidInput, lambda: confirm_target(MeshConfig(), yes=False))
    confirm_target(MeshConfig(), yes=True)

    terminal = io.StringIO("n\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    advice(InvalidInput, lambda: confirm_target(MeshConfig(), yes=False))
    terminal.write("y\n")
    terminal.seek(2)
    confirm_target(load_mesh(None, file, "b"), yes=False)
