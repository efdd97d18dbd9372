"""A fleet from a terminal: mesh files, no Prefect server, and the command's own worker."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_linkerd.server.own_server import home
from sandbox.cluster import Sandbox
from tests.support.fleets import give_certificates, stand_ins
from tests.support.processes import processes_with, terminal_environment, uncopied_folder
from tests.support.waiting import eventually

COMMAND = (Path(sys.executable).with_name("prefect-linkerd"), "fleet")
MESHES = ("canary", "weak", "last")
USES_SERVER = """
import sys
from prefect_linkerd.server.own_server import own_server
with own_server(lambda _: None):
    print("has it", flush=True)
    sys.stdin.read()
"""


class Terminal:
    def __init__(self, folder: Path) -> None:
        self._state = folder / "state"
        self._environment = terminal_environment(folder)
        self._cwd = uncopied_folder(folder / "here")
        # A folder of the user's that has the name of one of our packages.
        (self._cwd / "mesh").mkdir()
        (self._cwd / "mesh/__init__.py").write_text('raise SystemExit("of somebody else")')

    def fleet(self, *arguments: str | Path, code: int = 0) -> Any:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments), "-o", "json"],
            cwd=self._cwd,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            stdin=subprocess.DEVNULL,
            env=self._environment,
        )
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
        return json.loads(done.stdout)

    def killed(self, *arguments: str | Path) -> None:
        """Kills a fleet's command once a mesh's run has begun; its worker dies as well."""
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=self._cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
        )
        name = f"terminal-{process.pid}"
        eventually(lambda: bool(self.runs()))
        assert processes_with(name)
        process.send_signal(signal.SIGKILL)
        process.wait()
        eventually(lambda: not processes_with(name))

    @contextmanager
    def another_user(self) -> Iterator[None]:
        """Another command of the same user, which shares the server."""
        with subprocess.Popen(
            [sys.executable, "-c", USES_SERVER],
            cwd=self._cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        ) as process:
            assert process.stdout is not None
            assert "has it" in process.stdout.read(len("has it"))
            yield
            process.communicate(timeout=60)
        assert process.returncode == 0

    @property
    def has_server(self) -> bool:
        return (self._state / "prefect-linkerd" / home().name / "server.pid").exists()

    def runs(self) -> list[tuple[str, str]]:
        """The names of the meshes' runs, in order, with their last states."""
        database = self._state / "prefect-linkerd" / home().name / "prefect.db"
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return list(
                connection.execute(
                    "select name, state_type from flow_run where deployment_id is not null "
                    "order by created"
                )
            )


@pytest.mark.timeout(900)
def test_a_fleet_of_files_stops_and_goes_on(
    fresh_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    sandbox, terminal = fresh_sandbox(), Terminal(tmp_path)
    assert terminal.fleet(code=2)["expected"].startswith("mesh files, or a Prefect server")
    with stand_ins(sandbox, MESHES, ended=["weak"]) as fields:
        files = [tmp_path / f"{name}.yaml" for name in MESHES]
        for path, content in zip(files, fields.values(), strict=True):
            path.write_text(yaml.safe_dump(content))
        assert terminal.fleet(*files, files[0], code=2)["found"] == "name canary a second time"
        assert terminal.fleet(*files, "north", code=2)["found"] == "north"
        round_ = (
            *("--deployment", "check_certificates", "--canaries", "canary"),
            *("--at-once", "1", "--round-name", "november", "--parameters", "thresholds.days=[60]"),
        )
        planned = terminal.fleet(*files, *round_, "--dry-run")
        assert (planned["canaries"], planned["rest"]) == (["canary"], ["weak", "last"])

        terminal.killed(*files, *round_)
        with terminal.another_user():
            stopped = terminal.fleet(*files, *round_, code=1)
            assert terminal.has_server
        assert not terminal.has_server
        assert stopped["error"] == "FleetStopped"
        assert stopped["found"] == "1 of 3 meshes succeeded; failed: weak (Failed)"

        give_certificates(sandbox.cluster(), fields["weak"]["namespaces"]["linkerd"], days=300)
        assert terminal.fleet(*files, *round_) == dict.fromkeys(MESHES, "succeeded")
        ended = [(n.rpartition(" ")[2], s) for n, s in terminal.runs() if s != "CRASHED"]
        assert ended == [
            ("canary", "COMPLETED"),
            ("weak", "FAILED"),
            ("weak", "COMPLETED"),
            ("last", "COMPLETED"),
        ]
    # None of its processes keeps running.
    assert not terminal.has_server
    folder = tmp_path / "state/prefect-linkerd" / home().name
    assert "worker" in (folder / "fleet.log").read_text().lower()
