"""What tests install: a folder's real charts and manifests, or else the rehearsal's."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
import yaml
from filelock import FileLock

from sandbox.binaries import cache_folder
from sandbox.rehearsal import SOURCES, rehearsal_emojivoto, rehearsal_mirror

SHARED = Path(os.environ.get("SHARED_DIR") or Path(__file__).parents[3] / "shared")
IS_REAL = (SHARED / "charts").is_dir()
REHEARSED: str = yaml.safe_load((SOURCES / "linkerd-control-plane/Chart.yaml").read_text())[
    "appVersion"
]
"""The only Linkerd version that the rehearsal has charts of."""


def lacks(what: str) -> NoReturn:
    """Skips the running test because something it needs is missing; fails it in CI."""
    reason = f"needs {what}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_real() -> None:
    if not IS_REAL:
        lacks("the real charts and reference files (SHARED_DIR)")


def require_version(version: str) -> None:
    """Skips tests of any other version if only the rehearsal charts are available."""
    if not IS_REAL and version != REHEARSED:
        lacks(f"the real charts of {version} (SHARED_DIR)")


def is_version(value: object) -> bool:
    return (
        isinstance(value, str) and re.fullmatch(r"(stable|edge)-\d+\.\d+\.\d+", value) is not None
    )


def rehearsal(helm: Path) -> Path:
    """The rehearsal charts and manifest, laid out like the real ones; packaged once."""
    digest = hashlib.sha256()
    for path in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(SOURCES)}".encode() + path.read_bytes())
    home = cache_folder() / "rehearsal-charts"
    home.mkdir(parents=True, exist_ok=True)
    kept = home / digest.hexdigest()[:16]
    with FileLock(home / "lock"):
        if not kept.exists():
            partial = home / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            rehearsal_mirror(helm, partial / "charts")
            (partial / "manifests").mkdir()
            shutil.copy(rehearsal_emojivoto(), partial / "manifests")
            partial.rename(kept)
    return kept
