"""Where a sandbox's programs come from, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import binaries as programs
from sandbox.binaries import PROGRAMS, SandboxError

ETCD = next(program for program in PROGRAMS if program.name == "etcd")
KWOK = next(program for program in PROGRAMS if program.name == "kwok")


def make(folder: Path, name: str, prints: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)


def test_assets_come_before_path_and_path_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = "etcd Version: 3.6.4"
    make(tmp_path / "cache/prefect-linkerd/bin/built-from-something-else", "etcd", good)
    assert programs._find(ETCD) is None
    cached = make(programs._built(ETCD).parent, "etcd", good)
    assert programs._find(ETCD) == cached
    on_path = make(tmp_path / "path", "etcd", good)
    assert programs._find(ETCD) == on_path
    on_path.unlink()
    cached.unlink()
    released = make(programs._downloaded(ETCD).parent, "etcd", good)
    assert programs._find(ETCD) == released
    asset = make(tmp_path / "assets", "etcd", good)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(asset.parent))
    assert programs._find(ETCD) == asset


def test_a_program_of_another_version_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path / "path", "etcd", "etcd Version: 2.3.0")
    assert programs._find(ETCD) is None


def test_what_is_only_ours_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    make(tmp_path / "path", "kwok", "kwok v0.8.0")
    assert programs._find(KWOK) is None


def test_without_go_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    with pytest.raises(SandboxError, match="run `make binaries`"):
        programs._build(KWOK, lambda _: None, "1 of 1")
    # The environment's own Go, if it has one.
    go = make(tmp_path / "bin", "go", "")
    assert programs._go() == str(go)
    on_path = make(tmp_path / "path", "go", "")
    assert programs._go() == str(on_path)
