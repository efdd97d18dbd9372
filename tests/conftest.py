"""Sandboxes for tests: one shared by each test process, and fresh ones for whole meshes."""

from __future__ import annotations

import gc
import os
import secrets
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.server.own_server import UNUSED
from prefect_linkerd.server.prefect_server import PrefectServer
from prefect_linkerd.tasks.outside import reports_are_about
from sandbox.binaries import Binaries, ensure_binaries
from sandbox.cluster import GARBAGE, Sandbox
from tests.lengths import length
from tests.support import shared
from tests.support.meshes import add_workloads, configuration
from tests.support.one_server import UNUSED_SERVICES, one_server
from tests.support.ready_meshes import ReadyMesh, ReadyMeshes, ready_control_plane
from tests.support.repository import ROOT
from tests.support.turns import open_turns, turn

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts background processes with SIGINT ignored, and whatever tests start inherits
    # that: a Prefect worker then never exits on SIGTERM.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A helm process lives for a second or two; a fifth of its processor time is garbage collection.
os.environ.setdefault("GOGC", GARBAGE)
# The same holds for Python, both in the tests and in the processes that they start.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT / "tests/interpreter"), *filter(None, [os.environ.get("PYTHONPATH")])]
)
gc.set_threshold(100_000)

# No deadline: other tests compete for the processor, and each test's timeout stops one that hangs.
settings.register_profile("beside others", deadline=None)
settings.load_profile("beside others")


open_turns()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workloads",
        type=int,
        help="meshed workloads in every whole rotation; by default 300 in two, 20 in others",
    )


NEEDS_MORE = {"binaries", "prefect_server"} | (set() if shared.IS_REAL else {"shared_dir"})
"""Fixtures whose tests need more than Python: programs of a cluster, or a Prefect server."""


def fixtures_of(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def shares_sandbox(item: pytest.Item) -> bool:
    return "sandbox" in fixtures_of(item) and item.get_closest_marker("xdist_group") is None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest first, keeps a group's order, and marks as `fast` what needs only Python.

    Tests on the shared sandbox come last, as an idle sandbox costs a thirtieth of a processor.
    """
    items.sort(key=lambda item: (not shares_sandbox(item), length(item)), reverse=True)
    for item in items:
        if not fixtures_of(item) & NEEDS_MORE and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.fast)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Waits for a turn before the test's clock and timeout start."""
    with turn(item):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose charts are missing, before any fixture is set up."""
    if item.get_closest_marker("real_charts"):
        shared.require_real()
    if "shared_dir" in fixtures_of(item):
        parameters = getattr(item, "callspec", None)
        for value in parameters.params.values() if parameters is not None else ():
            if shared.is_version(value):
                shared.require_version(value)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Lists the tests that were skipped because something they need is missing."""
    skipped = terminalreporter.stats.get("skipped", ())
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    if reasons:
        terminalreporter.section("not run")
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f"{count} {'test' if count == 1 else 'tests'}: {reason}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stops if a test has lost its group: every worker would then set up every group."""
    # What is loaded now stays until the end: exclude it from garbage collection.
    gc.collect()
    gc.freeze()
    if getattr(session.config.option, "loadgroup", False):
        for item in session.items:
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
                raise pytest.UsageError(f"{item.nodeid} has lost its xdist_group")


@pytest.fixture(autouse=True)
def _reports_of_no_mesh() -> Iterator[None]:
    """Resets which mesh reports are about; a command keeps it until its process ends.

    Otherwise the next test's reports query a cluster that is gone until the client gives up.
    """
    yield
    reports_are_about(None)


@pytest.fixture(scope="session")
def shared_dir(request: pytest.FixtureRequest) -> Path:
    """A folder with charts/ and manifests/: the real ones, or else the rehearsal's."""
    return shared.SHARED if shared.IS_REAL else shared.rehearsal(_helm(request))


def _helm(request: pytest.FixtureRequest) -> Path:
    """Helm, requested late: with the real charts, most tests need no program."""
    return request.getfixturevalue("binaries").helm


@pytest.fixture(scope="session")
def charts_dir(shared_dir: Path) -> Path:
    return shared_dir / "charts"


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    """The programs of a cluster. Limits each that is started from here on to one processor: other
    tests use the rest, and Go's overhead for several is a tenth of what all tests cost.
    """
    found = ensure_binaries()
    os.environ.setdefault("GOMAXPROCS", "1")
    return found


@pytest.fixture(scope="session")
def helm_path(binaries: Binaries) -> str:
    return str(binaries.helm)


@pytest.fixture(scope="session")
def sandbox(binaries: Binaries) -> Iterator[Sandbox]:
    """One cluster per test process, for tests that keep to namespaces of their own."""
    with Sandbox("shared", binaries=binaries) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(sandbox: Sandbox) -> Cluster:
    return sandbox.cluster()


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own on the shared cluster."""
    readable = "".join(c if c.isalnum() else "-" for c in request.node.name.lower())
    name = f"t-{readable[:40]}".strip("-") + f"-{secrets.token_hex(4)}"
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    cluster.delete("v1", "Namespace", name)


@pytest.fixture
def fresh_sandbox(binaries: Binaries) -> Iterator[Callable[..., Sandbox]]:
    """Starts clusters for one test alone, for what is cluster-wide, such as a mesh."""
    with ExitStack() as stack:
        yield lambda name="fresh": stack.enter_context(Sandbox(name, binaries=binaries))


@pytest.fixture(scope="session")
def ready_meshes(binaries: Binaries, charts_dir: Path) -> ReadyMeshes:
    """Meshes that are installed once and copied for every test."""
    return ReadyMeshes(binaries, charts_dir)


@pytest.fixture
def ready_mesh(
    ready_meshes: ReadyMeshes, shared_dir: Path, helm_path: str, tmp_path: Path
) -> Iterator[ReadyMesh]:
    """A control plane from `tests.support.meshes`, on a cluster of its own.

    Takes a version, an issuer mode, a number of workloads and further fields of the configuration
    that change nothing in the cluster; returns the sandbox and the mesh's configuration. The
    anchor's key is in the test's folder unless it is in the cluster.
    """
    with ExitStack() as stack:

        def copy(
            version: str, issuer: str = "self-signed", *, workloads: int = 0, **more: Any
        ) -> tuple[Sandbox, MeshConfig]:
            shared.require_version(version)
            ready = ready_control_plane(
                ready_meshes, version, issuer, shared_dir, helm_path, tmp_path
            )
            sandbox = stack.enter_context(ready)
            if workloads:
                add_workloads(sandbox.cluster(), workloads)
            return sandbox, configuration(version, shared_dir, tmp_path, issuer, **more)

        yield copy


@pytest.fixture(scope="session")
def prefect_server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[PrefectServer]:
    """One Prefect server shared by all test processes, for runs that a test starts.

    Its services for schedules, workers and the UI are off, as they take processor time constantly.
    It also has the runs of other tests: a test asks only for those of its own mesh.
    """
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent
    with one_server(folder / "prefect-of-all", UNUSED | UNUSED_SERVICES) as server:
        yield server


@pytest.fixture
def helm_on_path(binaries: Binaries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([str(binaries.helm.parent), os.environ["PATH"]]))
