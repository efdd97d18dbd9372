"""Programs are downloaded from where their projects publish them, or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sandbox import binaries
from sandbox.downloads import PUBLISHED, Published, download
from sandbox.errors import SandboxError

SCRIPT = b"#!/bin/sh\necho it runs\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def guess_type(self, path: Any) -> str:
        return "application/json" if "/api/" in str(path) else super().guess_type(path)


class Publisher:
    """Serves every project's files on loopback, under the same paths as the project does."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url

    def table(self) -> dict[str, Published]:
        return {
            name: replace(
                known,
                url=self._here(known.url),
                checksum=self._here(known.checksum),
                systems=("linux", "darwin"),
            )
            for name, known in PUBLISHED.items()
        }

    def _here(self, url: str) -> str:
        path = url.split("://", 1)[1].replace("api.github.com/", "api/")
        return f"{self.url}/{path}"

    def publish(self, name: str, version: str, content: bytes = SCRIPT, digest: str = "") -> None:
        system, arch = os.uname().sysname.lower(), os.uname().machine
        words = {
            "name": name,
            "version": version,
            "system": system,
            "arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(arch, arch),
        }
        known = self.table()[name]
        if known.is_archive:
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w:gz") as tar:
                for member in (f"{name}-folder/README", f"{name}-folder/{name}"):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
            content = packed.getvalue()
        digest = digest or hashlib.sha256(content).hexdigest()
        url, checksum = known.url.format(**words), known.checksum.format(**words)
        file = url.rsplit("/", 1)[-1]
        said = {
            "sha256": digest,
            "sha256sum": f"{digest}  {file}\n",
            "SHA256SUMS": f"{'0' * 64}  other.tar.gz\n{digest}  {file}\n",
        }.get(checksum.rsplit("/", 1)[-1].rsplit(".", 1)[-1])
        if said is None:
            named = {"other": None, file: f"sha256:{digest}"}
            said = json.dumps({"assets": [{"name": n, "digest": d} for n, d in named.items()]})
        for address, text in ((url, content), (checksum, said.encode())):
            path = self.folder / address.removeprefix(f"{self.url}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    folder = tmp_path / "published"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield Publisher(folder, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_program_is_downloaded_and_runs(
    name: str, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish(name, "1.2.3")
    said: list[str] = []
    found = download(name, "1.2.3", tmp_path / "bin", said.append, publisher.table())
    assert found == (path := tmp_path / "bin" / name)
    assert subprocess.run([path], capture_output=True, check=True).stdout == b"it runs\n"
    assert said == [f"downloading {name} 1.2.3"]
    assert [each.name for each in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_program_with_another_checksum_is_refused(
    name: str, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish(name, "1.2.3", digest="a" * 64)
    with pytest.raises(SandboxError, match=r"its SHA-256 is [0-9a-f]{64}, the published one is a"):
        download(name, "1.2.3", tmp_path / "bin", lambda _: None, publisher.table())
    assert list((tmp_path / "bin").iterdir()) == []


def test_what_is_out_of_reach_or_not_published_is_built_instead(
    publisher: Publisher, tmp_path: Path
) -> None:
    said: list[str] = []
    table = publisher.table()
    assert download("helm", "9.9.9", tmp_path / "bin", said.append, table) is None
    assert said == ["helm 9.9.9 cannot be downloaded (HTTPStatusError)"]
    nowhere = {"helm": replace(table["helm"], checksum="http://127.0.0.1:1/{version}")}
    assert download("helm", "9.9.9", tmp_path / "bin", said.append, nowhere) is None
    assert said[1] == "helm 9.9.9 cannot be downloaded (ConnectError)"
    assert download("companion", "1", tmp_path / "bin", said.append, table) is None
    elsewhere = {"helm": replace(table["helm"], systems=("plan9",))}
    assert download("helm", "9.9.9", tmp_path / "bin", said.append, elsewhere) is None
    assert len(said) == 2


def test_every_program_that_is_released_is_published() -> None:
    released = {program.name for program in binaries.PROGRAMS if program.release}
    assert released == PUBLISHED.keys()
