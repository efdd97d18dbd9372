"""Commands at a terminal without a Prefect server use nothing but the cluster."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import read_record
from prefect_linkerd.mesh.rotation.trust_bundle import read_trust_bundle
from sandbox.binaries import Binaries
from tests.support.meshes import PASSPHRASE
from tests.support.processes import terminal_environment
from tests.support.ready_meshes import ReadyMesh
from tests.support.repository import ROOT

VERSION = "edge-25.4.4"
WITHOUT = "import sys\nfrom prefect_linkerd.cli.app import main\ncode = main()\n"
WITHOUT += "assert not {'prefect', 'prefect_kubernetes'} & set(sys.modules)\nsys.exit(code)\n"
"""Runs the command, and fails if it has loaded Prefect."""
ROTATE = ("rotate-anchor", "--load-seconds", "5", "--lease-seconds", "5")


class Terminal:
    def __init__(self, folder: Path, binaries: Binaries) -> None:
        self._home = folder / "home"
        self._home.mkdir()
        path = os.pathsep.join([str(binaries.helm.parent), os.environ["PATH"]])
        self._environment = terminal_environment(folder) | {
            "PATH": path,
            "HOME": str(self._home),
            "PYTHONPATH": str(ROOT),
        }
        self.mesh = folder / "mesh.yaml"

    def start(self, name: str, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WITHOUT, name, str(self.mesh), *arguments],
            cwd=self._home,
            env=self._environment,
            text=True,
            **({"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | more),
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """A command's standard output and standard error."""
        with self.start(*arguments, stderr=subprocess.PIPE) as process:
            printed, said = process.communicate(timeout=300)
        assert process.returncode == code, printed[-2000:] + said[-4000:]
        return printed, said

    def stopped(self, when: str, by: signal.Signals, *arguments: str) -> int:
        """Sends a command a signal once it says `when`; returns its exit code."""
        with self.start(*arguments, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if when in line:
                    process.send_signal(by)
                    break
            rest = threading.Thread(target=process.stderr.read, daemon=True)
            rest.start()
            process.wait(timeout=120)
        assert when in said, said
        return process.returncode

    def answered(self, answer: str, *arguments: str) -> tuple[int, str]:
        """Answers a command's question at a real terminal; returns its exit code and output."""
        leader, follower = pty.openpty()
        with self.start(*arguments, stdin=follower, stdout=follower, stderr=follower) as process:
            os.close(follower)
            shown = ""
            while True:
                try:
                    shown += os.read(leader, 65536).decode(errors="replace")
                except OSError:
                    break
                if shown.endswith("[y/N]: "):
                    os.write(leader, f"{answer}\n".encode())
        os.close(leader)
        return process.returncode, " ".join(shown.split())


@pytest.mark.timeout(600)
def test_a_rotation_asks_is_stopped_is_killed_and_is_finished(
    ready_mesh: ReadyMesh, binaries: Binaries, tmp_path: Path
) -> None:
    sandbox, config = ready_mesh(VERSION)
    cluster, terminal = sandbox.cluster(), Terminal(tmp_path, binaries)
    fields = json.loads(config.model_dump_json(exclude_unset=True))
    fields["access"] = {"kubeconfig": str(sandbox.kubeconfig)}
    fields["trust_anchor"]["passphrase"] = PASSPHRASE.get_secret_value()
    terminal.mesh.write_text(yaml.safe_dump(fields))
    printed, said = terminal.run("adopt")
    assert yaml.safe_load(printed)["version"] == VERSION
    assert said.splitlines()[-1].split() == ["adopt", "done"]

    # Answering no stops before the phase, and the command says how to resume.
    before = read_trust_bundle(Mesh(cluster, config)).anchors
    code, shown = terminal.answered("n", *ROTATE, "--approvals", "bundle")
    assert code == 2
    assert "# Rotation" in shown, shown
    assert "Approve phase bundle: " in shown
    assert "expected to be approved, found that it was not. Run it again to resume" in shown
    kept = read_record(cluster, "linkerd")
    assert kept is not None
    assert kept.is_open
    assert read_trust_bundle(Mesh(cluster, config)).anchors == before
    printed, _ = terminal.run("status")
    assert f"linkerd       {VERSION} (" in printed
    assert "linkerd/linkerd-control-plane: linkerd-control-plane " in printed
    assert "trust anchor: " in printed
    assert ", in phase prepare, not done" in printed
    assert "resume: rotate-anchor; give up: rotate-anchor --action abort" in printed
    assert f"anchor's key  file {tmp_path}/anchor.key\n" in printed
    # Without a terminal the answer is no.
    _, said = terminal.run(*ROTATE, "--approvals", "bundle", code=2)
    assert "no terminal to ask at" in said

    assert terminal.stopped("bundle  done", signal.SIGINT, *ROTATE) == 130
    assert terminal.stopped("switch: 0 of 3", signal.SIGKILL, *ROTATE) == -signal.SIGKILL
    printed, said = terminal.run(*ROTATE, "--output", "json", "--quiet")
    record = json.loads(printed)
    assert (record["phase"], record["goal"]) == ("done", kept.goal)
    assert read_trust_bundle(Mesh(cluster, config)).anchors == {kept.goal} != before
    status = json.loads(terminal.run("status", "-o", "json")[0])
    assert (status["rotation"], status["upgrade"], status["mesh"]) == (None, None, config.name)
    assert {c["name"] for c in status["certificates"]} >= {"trust anchor", "issuer"}
    assert len(terminal.run("certificates", "--fail-days", "3000", code=1)[0].splitlines()) > 2
    terminal.run("certificates", "--fail-days", "10")
    assert "PRIVATE KEY" not in printed + said
    assert "done" not in said
    # Helm leaves its caches; we leave nothing.
    assert not [path for path in tmp_path.rglob("*") if "prefect" in path.name]
