"""The package installs from its own metadata alone, without the lock file, and imports."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_plain_install_can_import_every_flow(tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    venv = tmp_path / "venv"
    python = venv / "bin/python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    # A wheel built in the source tree would leave files there.
    source = tmp_path / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".venv", ".git", ".uv", "uv.lock", "go", "__pycache__"),
    )
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, source], check=True)
    answer = subprocess.run(
        [python, "-c", "import flows.bootstrap; print(flows.bootstrap.bootstrap.name)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")},
    )
    assert answer.stdout.strip() == "linkerd-bootstrap"
