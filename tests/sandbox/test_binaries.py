"""Where a sandbox's programs come from, in which order."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from sandbox import binaries as programs
from sandbox.binaries import KUBERNETES, PROGRAMS, SandboxError

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
    asset = make(tmp_path / "assets", "etcd", good)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(asset.parent))
    assert programs._find(ETCD) == asset


def test_a_program_of_another_version_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path / "path", "etcd", "etcd Version: 2.3.0")
    assert programs._find(ETCD) is None


def test_what_is_only_ours_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    make(tmp_path / "path", "kwok", "kwok v0.8.0")
    assert programs._find(KWOK) is None


def test_without_go_the_message_says_what_to_do() -> None:
    with pytest.raises(SandboxError, match="install Go"):
        programs._build(KWOK, lambda _: None, "1 of 1")


@pytest.fixture
def publish(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Serves an envtest archive with an index on loopback; its address."""
    folder = tmp_path / "published"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"

    def make_release(*, digest: str | None = None) -> str:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for name in ("etcd", "kube-apiserver", "kubectl", "unknown"):
                content = b"#!/bin/sh\necho 'etcd Version: 3.6.4'\n"
                member = tarfile.TarInfo(f"controller-tools/envtest/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        content = archive.getvalue()
        (folder / "archive.tar.gz").write_bytes(content)
        found = digest or hashlib.sha512(content).hexdigest()
        entry = {"hash": found, "selfLink": f"{url}/archive.tar.gz"}
        names = {
            f"envtest-v{KUBERNETES}-{system}-{arch}.tar.gz": entry
            for system in ("linux", "darwin")
            for arch in ("amd64", "arm64")
        }
        index = {"releases": {f"v{KUBERNETES}": names}}
        (folder / "index.yaml").write_text(yaml.safe_dump(index))
        return f"{url}/index.yaml"

    yield make_release
    server.shutdown()
    server.server_close()


def test_the_archive_is_downloaded_and_its_programs_are_used(
    publish: Callable[..., str],
) -> None:
    folder = programs._downloads()
    assert programs._download(folder, lambda _: None, publish())
    assert programs._find(ETCD) == folder / "etcd"
    assert sorted(path.name for path in folder.glob("[a-z]*")) == [
        "etcd",
        "kube-apiserver",
        "kubectl",
    ]


def test_an_archive_with_another_checksum_is_refused(
    publish: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "cache/prefect-linkerd/bin"
    with pytest.raises(SandboxError, match="SHA-512"):
        programs._download(folder, lambda _: None, publish(digest="0" * 128))
    assert not folder.exists()


def test_an_archive_out_of_reach_is_no_error(tmp_path: Path) -> None:
    said: list[str] = []
    index = "http://127.0.0.1:1/index.yaml"
    assert not programs._download(tmp_path / "bin", said.append, index)
    assert "cannot be had" in said[0]
