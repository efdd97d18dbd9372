"""Where a run from a terminal keeps the trust anchor's key: as chosen, asked for or named."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from prefect_linkerd.cli.app import main
from prefect_linkerd.cli.key_place import (
    PASSPHRASE,
    is_chosen,
    key_row,
    key_text,
    place_text,
    with_place,
)
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.identity.trust_anchor import TRUST_ROOTS
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh_file import load_mesh
from prefect_linkerd.server.own_server import home
from sandbox.cluster import Sandbox

HIDDEN = ("Passphrase", "Repeat")
WORDS = " ".join(["correct", "horse", "battery"])

pytestmark = pytest.mark.xdist_group("deployments")

ASK = """
import sys
import termios
import time
from pathlib import Path
from prefect_linkerd.cli.key_place import with_place
from prefect_linkerd.mesh_file import load_mesh
anchor = with_place(load_mesh(Path(sys.argv[1])), "bootstrap").trust_anchor
print("CHOSEN", anchor.custody, anchor.key_file, bool(anchor.passphrase))
"""


@pytest.fixture
def mesh_file(sandbox: Sandbox, namespace: str, tmp_path: Path) -> Path:
    """A mesh on a cluster without Linkerd, with no place for its key."""
    path = tmp_path / "mesh.json"
    fields = {
        "name": "north",
        "access": {"kubeconfig": str(sandbox.kubeconfig)},
        "namespaces": {"linkerd": namespace},
    }
    path.write_text(json.dumps(fields))
    return path


def at_terminal(arguments: list[str], answers: list[tuple[str, str]], folder: Path) -> str:
    """Runs a program at a terminal, answers each prompt, and returns what was shown."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        arguments, stdin=follower, stdout=follower, stderr=follower, cwd=folder
    ) as process:
        os.close(follower)
        shown, waiting = "", list(answers)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if select.select([leader], [], [], 1.0)[0]:
                try:
                    shown += os.read(leader, 65536).decode(errors="replace")
                except OSError:
                    break
            elif process.poll() is not None:
                break
            # As at any terminal, what is typed before the echo is off is discarded.
            is_hidden = not termios.tcgetattr(leader)[3] & termios.ECHO
            last = shown.rpartition("\n")[2]
            if waiting and waiting[0][0] in last and is_hidden == waiting[0][0].startswith(HIDDEN):
                os.write(leader, f"{waiting.pop(0)[1]}\n".encode())
        process.kill()
    os.close(leader)
    assert not waiting, shown
    return shown


def test_a_person_is_asked_and_the_passphrase_is_not_shown(mesh_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK, str(mesh_file)]
    shown = at_terminal(
        command,
        [
            ("Place [1]", ""),
            ("File [", ""),
            ("Passphrase of", "short"),
            ("Repeat", "short"),
            ("Passphrase of", WORDS),
            ("Repeat", "another one entirely"),
            ("Passphrase of", WORDS),
            ("Repeat", WORDS),
        ],
        tmp_path,
    )
    assert f"CHOSEN offline {tmp_path}/north-trust-anchor.pem True" in shown
    assert "shorter than 12 characters" in shown
    assert WORDS not in shown
    shown = at_terminal(command, [("Place [1]", "2")], tmp_path)
    assert "CHOSEN in-cluster None False" in shown


BLOCK = "mine"


@pytest.mark.parametrize("anchor", [{}, {"secret_block": BLOCK}])
def test_where_nobody_can_be_asked_nothing_is_started(
    anchor: dict[str, str],
    mesh_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    fields = {**json.loads(mesh_file.read_text()), "trust_anchor": anchor}
    mesh_file.write_text(json.dumps(fields))
    for command in (["bootstrap"], ["rotate-anchor"], ["fleet", "--deployment", "bootstrap"]):
        assert main([*command, str(mesh_file)]) == 2
        said = capsys.readouterr().err
        assert "expected a place for the trust anchor's private key" in said
        assert ("Secret block mine, but no" if anchor else "none, and no") in said
        assert f"--key-file FILE and its passphrase in {PASSPHRASE}, or --key-in-cluster" in said
    assert not home().exists()


def test_a_mesh_with_an_anchor_of_its_own_needs_no_place(
    mesh_file: Path, cluster: Cluster, namespace: str
) -> None:
    config = load_mesh(mesh_file)
    with pytest.raises(InvalidInput, match="a place for the trust anchor"):
        with_place(config, "bootstrap")
    roots = {"name": TRUST_ROOTS, "namespace": namespace}
    bundle = {"ca-bundle.crt": "whatever it trusts"}
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": roots, "data": bundle})
    assert with_place(config, "bootstrap") == config
    # A rotation creates a new key.
    with pytest.raises(InvalidInput, match="a place for the trust anchor"):
        with_place(config, "rotate_anchor")


def test_the_passphrase_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("trust_anchor: {key_file: anchor.pem}\n")
    with pytest.raises(InvalidInput, match="give a passphrase"):
        load_mesh(path, key="asked")
    # Neither flows that need no key nor plans that create one ask for it; a block must have it.
    assert load_mesh(path, key="read").trust_anchor.key_file == Path("anchor.pem")
    assert load_mesh(path, key="unused").trust_anchor.key_file is None
    with pytest.raises(InvalidInput, match="give a passphrase"):
        load_mesh(path)
    monkeypatch.setenv(PASSPHRASE, WORDS)
    found = load_mesh(path, key="asked")
    assert found.trust_anchor.passphrase == SecretStr(WORDS)
    assert is_chosen(found)


def test_a_place_that_is_not_said_is_not_guessed(cluster: Cluster) -> None:
    for said in (key_text(MeshConfig(), ""), key_row(MeshConfig(), cluster, has_server=False)):
        assert "the mesh's file does not say (trust_anchor.key_file, or" in said
    assert "Secret block" in key_row(MeshConfig(), cluster, has_server=True)


@pytest.mark.parametrize(
    ("anchor", "words"),
    [
        (
            {"key_file": "/keys/a.pem", "passphrase": WORDS},
            ["is in here.", "copy the file off this machine", "{key_file: /keys/a.pem}"],
        ),
        (
            {"custody": "in-cluster"},
            ["kubectl get secret linkerd-trust-anchor -n linkerd -o yaml", "custody: in-cluster"],
        ),
        ({}, ["database of http://there/api", "PREFECT_SERVER_ENCRYPTION_KEY"]),
    ],
)
def test_the_place_is_named_with_how_to_back_it_up(
    anchor: dict[str, str], words: list[str]
) -> None:
    config = MeshConfig.model_validate({"trust_anchor": anchor})
    said = place_text(config, "here", "http://there/api")
    assert all(word in said for word in words), said
    assert WORDS not in said
