"""The repository contains no secret: a person has audited whatever detect-secrets finds.

Add a false positive with `detect-secrets scan > .secrets.baseline`, and audit it with
`detect-secrets audit .secrets.baseline`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from detect_secrets import SecretsCollection
from detect_secrets.settings import transient_settings

from prefect_linkerd.mesh.atomic_file import write_whole
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor
from sandbox.binaries import cache_folder
from tests.support.repository import ROOT

BASELINE: dict[str, Any] = json.loads((ROOT / ".secrets.baseline").read_text())
# Hashes of packages and modules, and the baseline: no secrets, but they look like some.
NOT_SCANNED = {"uv.lock", ".secrets.baseline", "go.sum"}
SETTINGS = {key: BASELINE[key] for key in ("plugins_used", "filters_used")}

CLEAN = cache_folder() / "files-without-secrets"
"""File states in which the last scan found nothing new: a scan takes 50 ms per file."""


def state(path: str) -> str:
    """A digest of everything that affects what a scan of a file finds and whether it is new."""
    name = ROOT / path
    # The list also contains links to folders.
    content = name.read_bytes() if name.is_file() else b""
    rest = (version("detect-secrets"), SETTINGS, path, BASELINE["results"].get(path))
    return hashlib.sha256(json.dumps(rest).encode() + content).hexdigest()


def found(root: Path, paths: list[str]) -> set[tuple[str, str]]:
    """Each finding by its file and the hash of the secret, as line numbers may change."""
    with transient_settings(SETTINGS):
        secrets = SecretsCollection(root=str(root))
        for path in paths:
            secrets.scan_file(path)
        return {(path, secret.secret_hash) for path, secret in secrets}


@pytest.mark.slow
def test_the_repository_holds_no_secret() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    paths = [
        path for path in listed if Path(path).name not in NOT_SCANNED and not path.endswith(".png")
    ]
    assert len(paths) > 200
    known = {
        (path, each["hashed_secret"])
        for path, findings in BASELINE["results"].items()
        for each in findings
    }
    states = {path: state(path) for path in paths}
    clean = set(CLEAN.read_text().split()) if CLEAN.exists() else set[str]()
    assert found(ROOT, [path for path in paths if states[path] not in clean]) - known == set()
    write_whole(CLEAN, "\n".join(states.values()))


def test_a_key_that_slips_in_is_found(tmp_path: Path) -> None:
    pair = create_trust_anchor("cluster.local", timedelta(days=1), datetime.now(UTC))
    (tmp_path / "notes.py").write_text(pair.private_key.get_secret_value())
    assert len(found(tmp_path, ["notes.py"])) == 1
