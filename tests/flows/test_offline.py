"""Neither the server nor a flow contacts anything but the cluster and the charts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from sandbox.binaries import Binaries
from tests.support.shared import IS_REAL

WATCHED = Path(__file__).with_name("watched")
CUT = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--net")


def test_a_server_and_flows_work_with_the_network_cut_and_try_nothing_else(
    tmp_path: Path,
    charts_dir: Path,
    binaries: Binaries,  # noqa: ARG001
) -> None:
    log = tmp_path / "watched.log"
    done = subprocess.run(
        [*CUT, sys.executable, "-m", "tests.flows.run_offline", tmp_path, charts_dir],
        env=os.environ | {"PYTHONPATH": str(WATCHED), "WATCHED_LOG": str(log)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # The rehearsal charts lack what verification checks; the flows work anyway.
    assert found["verified"] == ("COMPLETED" if IS_REAL else "FAILED")
    # The kernel saw no attempt from any program to leave the network before the deliberate one.
    assert found["attempts"] == 0, log.read_text()
    assert found["control"] == 1
    assert log.read_text().splitlines() == [
        f"{WATCHED.parent / 'run_offline.py'} {tmp_path} {charts_dir}: socket.connect 192.0.2.1"
    ]
