"""Downloads programs from their projects and checks them against the published checksums."""

from __future__ import annotations

import hashlib
import platform
import re
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from sandbox.errors import SandboxError

Report = Callable[[str], None]

_KUBERNETES = "https://dl.k8s.io/release/v{version}/bin/{system}/{arch}/{name}"
_ETCD = "https://github.com/etcd-io/etcd/releases/download/v{version}"
_KWOK = "kubernetes-sigs/kwok/releases"


@dataclass(frozen=True)
class Published:
    """Where a project publishes a program, with `{name}`, `{version}`, `{system}` and `{arch}`.

    Args:
        url: the program, or an archive that contains it.
        checksum: its SHA-256: alone, on a line of a list, or in a release from GitHub's API as
            JSON.
        systems: the operating systems that it is published for, among those a sandbox runs on.
        is_archive: whether the URL is a `tar.gz` with the program under its name in any folder.
    """

    url: str
    checksum: str
    systems: tuple[str, ...] = ("linux", "darwin")
    is_archive: bool = False


PUBLISHED: Mapping[str, Published] = {
    **{
        name: Published(_KUBERNETES, f"{_KUBERNETES}.sha256", ("linux",))
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    },
    "kubectl": Published(_KUBERNETES, f"{_KUBERNETES}.sha256"),
    # etcd for macOS is a zip, which this module does not extract.
    "etcd": Published(
        f"{_ETCD}/etcd-v{{version}}-{{system}}-{{arch}}.tar.gz",
        f"{_ETCD}/SHA256SUMS",
        ("linux",),
        is_archive=True,
    ),
    "helm": Published(
        "https://get.helm.sh/helm-v{version}-{system}-{arch}.tar.gz",
        "https://get.helm.sh/helm-v{version}-{system}-{arch}.tar.gz.sha256sum",
        is_archive=True,
    ),
    # kwok publishes no checksum file; GitHub's API has the digest of each release file.
    "kwok": Published(
        f"https://github.com/{_KWOK}/download/v{{version}}/kwok-{{system}}-{{arch}}",
        f"https://api.github.com/repos/{_KWOK}/tags/v{{version}}",
    ),
}


def download(
    name: str,
    version: str,
    folder: Path,
    say: Report,
    published: Mapping[str, Published] = PUBLISHED,
) -> Path | None:
    """Downloads a program into a folder; returns None if it is not published or unreachable.

    Raises:
        SandboxError: it does not have the published checksum; nothing was kept.
    """
    system = platform.system().lower()
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    known = published.get(name)
    if known is None or system not in known.systems:
        return None
    words = {"name": name, "version": version, "system": system, "arch": arch}
    url = known.url.format(**words)
    folder.mkdir(parents=True, exist_ok=True)
    fetched = folder / f".{name}.fetched"
    partial = folder / f".{name}.partial"
    try:
        with httpx.Client(timeout=httpx.Timeout(60, connect=3), follow_redirects=True) as client:
            wanted = _checksum(client.get(known.checksum.format(**words)).raise_for_status(), url)
            say(f"downloading {name} {version}")
            found = _fetch(client, url, fetched)
        if found != wanted:
            raise SandboxError(
                f"{url}: its SHA-256 is {found}, the published one is {wanted}: nothing was kept"
            )
        if known.is_archive:
            _extract(fetched, name, partial)
        else:
            fetched.replace(partial)
        partial.chmod(0o755)
        return partial.replace(folder / name)
    except (httpx.HTTPError, tarfile.TarError, LookupError, ValueError) as error:
        say(f"{name} {version} cannot be downloaded ({type(error).__name__})")
        return None
    finally:
        fetched.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)


def _checksum(answer: httpx.Response, url: str) -> str:
    """Returns the SHA-256 of the file at a URL, from any of the forms of checksum response."""
    file = url.rsplit("/", 1)[-1]
    if "json" in answer.headers.get("content-type", ""):
        digests = {asset["name"]: asset["digest"] for asset in answer.json()["assets"]}
        return str(digests[file]).removeprefix("sha256:")
    lines = [line.split() for line in answer.text.splitlines() if line.strip()]
    named = {line[1].lstrip("*"): line[0] for line in lines if len(line) > 1}
    found = named[file] if named else lines[0][0]
    if not re.fullmatch("[0-9a-f]{64}", found):
        raise ValueError(found)
    return found


def _fetch(client: httpx.Client, url: str, target: Path) -> str:
    """Downloads a URL to a file and returns its SHA-256."""
    digest = hashlib.sha256()
    with client.stream("GET", url) as answer, target.open("wb") as file:
        for block in answer.raise_for_status().iter_bytes(1 << 20):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _extract(archive: Path, name: str, target: Path) -> None:
    with tarfile.open(archive) as tar:
        member = next(m for m in tar if m.isfile() and Path(m.name).name == name)
        content = tar.extractfile(member)
        if content is None:
            raise LookupError(name)
        with target.open("wb") as file:
            while block := content.read(1 << 20):
                file.write(block)
