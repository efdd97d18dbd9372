"""The programs of a sandbox: found, downloaded or built."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from platformdirs import user_cache_path
from rich.console import Console

SOURCES = Path(__file__).with_name("go")
KUBERNETES = "1.34.4"
# The envtest archives of the controller-tools project, with their checksums.
ENVTEST_INDEX = (
    "https://raw.githubusercontent.com/kubernetes-sigs/controller-tools/HEAD/envtest-releases.yaml"
)

_KUBE_LDFLAGS = " ".join(
    ["-s", "-w"]
    + [
        f"-X {package}.{key}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for key, value in (
            ("gitVersion", f"v{KUBERNETES}"),
            ("gitMajor", KUBERNETES.split(".")[0]),
            ("gitMinor", KUBERNETES.split(".")[1]),
            ("gitTreeState", "clean"),
        )
    ]
)


class SandboxError(RuntimeError):
    """A sandbox could not be made or kept running; the message says which part and why."""


@dataclass(frozen=True)
class Program:
    """One program: the Go module folder and package it is built from, and how it is accepted."""

    name: str
    module: str
    package: str
    ldflags: str
    version: Callable[[Path], bool] | None = None
    """Whether a program of that name found elsewhere will do; None: only our own build does."""


def _printed(path: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _is_kubernetes(path: Path) -> bool:
    # Admission policies and feature gates are those of this minor version.
    minor = ".".join(KUBERNETES.split(".")[:2])
    return bool(re.search(rf"Kubernetes v{re.escape(minor)}\.", _printed(path, "--version")))


def _is_kubectl(path: Path) -> bool:
    return "Client Version: v1." in _printed(path, "version", "--client")


def _is_etcd(path: Path) -> bool:
    return bool(re.search(r"etcd Version: 3\.[56]\.", _printed(path, "--version")))


def _is_helm(path: Path) -> bool:
    match = re.search(r"v3\.(\d+)\.", _printed(path, "version", "--short"))
    return bool(match) and int(match[1]) >= 14


_HELM_LDFLAGS = "-s -w -X helm.sh/helm/v3/internal/version.version=v3.19.4"

PROGRAMS = (
    Program("helm", "kubernetes", "helm.sh/helm/v3/cmd/helm", _HELM_LDFLAGS, _is_helm),
    Program("etcd", "kubernetes", "go.etcd.io/etcd/server/v3", "-s -w", _is_etcd),
    *(
        Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _KUBE_LDFLAGS, version)
        for name, version in (
            ("kube-apiserver", _is_kubernetes),
            ("kube-controller-manager", _is_kubernetes),
            ("kube-scheduler", _is_kubernetes),
            ("kubectl", _is_kubectl),
        )
    ),
    Program("kwok", "companion", "sigs.k8s.io/kwok/cmd/kwok", "-s -w"),
    Program("companion", "companion", ".", "-s -w"),
)


@dataclass(frozen=True)
class Binaries:
    """Where each program is."""

    helm: Path
    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kube_scheduler: Path
    kubectl: Path
    kwok: Path
    companion: Path


Report = Callable[[str], None]


def cache_folder() -> Path:
    """The user's cache."""
    return user_cache_path("prefect-linkerd")


def ensure_binaries(report: Report | None = None) -> Binaries:
    """Every program of a sandbox.

    Each is looked for in `KUBEBUILDER_ASSETS`, on `PATH` and in the user's cache; then etcd and
    the API server are downloaded as the envtest archive; what is still missing is built with Go.
    Only one process builds at a time; others wait for it.

    Args:
        report: called with a line for every step that takes time.

    Raises:
        SandboxError: a program is nowhere to be had; with Go's own message.
    """
    say = report or _print_line()
    found = {program.name: _find(program) for program in PROGRAMS}
    if missing := [program for program in PROGRAMS if found[program.name] is None]:
        with _lock(cache_folder() / "build.lock", say):
            # Another process may have built them meanwhile.
            missing = [p for p in missing if _find(p) is None]
            if any(p.name in ("etcd", "kube-apiserver") for p in missing):
                _download(_downloads(), say)
            for number, program in enumerate(missing, 1):
                if _find(program) is None:
                    _build(program, say, f"{number} of {len(missing)}")
        found = {program.name: _find(program) for program in PROGRAMS}
    paths: dict[str, Path] = {}
    for name, path in found.items():
        if path is None:
            raise SandboxError(f"{name}: built, but not found; see {cache_folder()}")
        paths[name.replace("-", "_")] = path
    return Binaries(**paths)


def _find(program: Program) -> Path | None:
    if program.version is not None:
        for folder in (
            os.environ.get("KUBEBUILDER_ASSETS", ""),
            *os.environ.get("PATH", "").split(os.pathsep),
        ):
            path = Path(folder, program.name)
            if folder and os.access(path, os.X_OK) and program.version(path):
                return path
    for cached in (_built(program), _downloads() / program.name):
        if os.access(cached, os.X_OK):
            return cached
    return None


def _downloads() -> Path:
    return cache_folder() / "bin" / f"envtest-{KUBERNETES}"


def _built(program: Program) -> Path:
    """Where a build is kept: by what it is built from, so that two checkouts get along."""
    return cache_folder() / "bin" / _fingerprint(program)[:16] / program.name


def _fingerprint(program: Program) -> str:
    """What a build depends on, so that a change of a version or of the source builds again."""
    digest = hashlib.sha256(f"{program.package} {program.ldflags}".encode())
    folder = SOURCES / program.module
    names = ["go.mod", "go.sum"]
    if program.package == ".":
        names += sorted(p.name for p in folder.glob("*.go") if not p.name.endswith("_test.go"))
    for name in names:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _build(program: Program, say: Report, count: str) -> None:
    go = shutil.which("go")
    if go is None:
        raise SandboxError(
            f"{program.name} is not on PATH, cannot be downloaded, and there is no Go to build it: "
            "install Go 1.26 or newer, or set KUBEBUILDER_ASSETS"
        )
    target = _built(program)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{program.name}.partial")
    begin = time.monotonic()
    say(f"building {program.name} ({count}) from {program.package}")
    process = subprocess.Popen(
        [
            *(go, "build", "-trimpath", "-buildvcs=false", "-ldflags", program.ldflags),
            *("-o", str(partial), program.package),
        ],
        cwd=SOURCES / program.module,
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors = ""
    try:
        while True:
            try:
                _, errors = process.communicate(timeout=15)
                break
            except subprocess.TimeoutExpired:
                say(f"building {program.name} ({count}): {time.monotonic() - begin:.0f} s so far")
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        raise SandboxError(f"{program.name}: go build failed: {errors.strip()[-2000:]}")
    partial.replace(target)
    say(f"built {program.name} in {time.monotonic() - begin:.0f} s")


def _download(folder: Path, say: Report, index: str = ENVTEST_INDEX) -> bool:
    """Etcd, the API server and kubectl from the envtest archive; False where it is out of reach.

    Raises:
        SandboxError: the archive's checksum is not the published one.
    """
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"envtest-v{KUBERNETES}-{platform.system().lower()}-{arch}.tar.gz"
    try:
        with httpx.Client(timeout=httpx.Timeout(60, connect=3), follow_redirects=True) as client:
            releases = yaml.safe_load(client.get(index).raise_for_status().text)["releases"]
            entry = releases[f"v{KUBERNETES}"][name]
            say(f"downloading {name}")
            archive = client.get(entry["selfLink"]).raise_for_status().content
    except (httpx.HTTPError, yaml.YAMLError, KeyError, TypeError) as error:
        say(f"the envtest archive cannot be had ({type(error).__name__})")
        return False
    if hashlib.sha512(archive).hexdigest() != entry["hash"]:
        raise SandboxError(f"{name}: its SHA-512 is not the published one; nothing was installed")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            program = next((p for p in PROGRAMS if p.name == Path(member.name).name), None)
            content = tar.extractfile(member) if program and member.isfile() else None
            if program is None or content is None:
                continue
            target = folder / program.name
            partial = folder / f".{program.name}.partial"
            partial.write_bytes(content.read())
            partial.chmod(0o755)
            partial.replace(target)
    return True


@contextmanager
def _lock(path: Path, say: Report) -> Generator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that builds the programs")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _print_line() -> Report:
    console = Console(stderr=True, highlight=False)
    return lambda text: console.print(f"sandbox: {text}")
