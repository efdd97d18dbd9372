"""Finds out whether the user has a Prefect server, without importing Prefect if possible."""

from __future__ import annotations

import os
from pathlib import Path


def has_server() -> bool:
    """Whether PREFECT_API_URL, a Prefect profile or a settings file names a server."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    if not _may_be_set_elsewhere():
        return False
    # Only Prefect knows which profile or file takes precedence.
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def _may_be_set_elsewhere() -> bool:
    """Whether anything else exists that Prefect may read settings from.

    Source: Prefect `settings/sources.py` and `settings/profiles.py`.
    """
    if os.environ.get("PREFECT_PROFILE"):
        return True
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect").expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    if profiles.expanduser().exists():
        return True
    return (
        _has(Path("prefect.toml"), "api")
        or _has(Path("pyproject.toml"), "tool.prefect")
        or _has(Path(".env"), "prefect_")
    )


def _has(path: Path, text: str) -> bool:
    try:
        return text in path.read_text().lower()
    except (OSError, UnicodeDecodeError):
        return False
