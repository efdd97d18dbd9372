"""A clone without the real charts: tests that need them are skipped and counted, or fail in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

REAL = "tests/prefect_linkerd/mesh/linkerd/test_releases.py"


def run(folder: Path, ci: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", REAL],
        cwd=ROOT,
        env=os.environ | {"SHARED_DIR": str(folder), "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_what_needs_the_real_charts_is_counted_and_fails_in_ci(tmp_path: Path) -> None:
    alone = run(tmp_path, "false")
    assert alone.returncode == 0, alone.stdout
    assert "1 test: needs the real charts and reference files (SHARED_DIR)" in alone.stdout
    in_ci = run(tmp_path, "true")
    assert in_ci.returncode == 1, in_ci.stdout
    assert "needs the real charts and reference files (SHARED_DIR)" in in_ci.stdout
