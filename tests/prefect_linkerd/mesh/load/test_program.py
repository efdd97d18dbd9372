"""The program of the smoke tests' pods on loopback: real servers, real requests, counted."""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_linkerd.mesh.load import program as traffic
from prefect_linkerd.mesh.load.program import (
    RESULT_LIMIT,
    Backend,
    Traffic,
    percentiles,
    read_traffic,
    send,
    write_traffic,
)

Starter = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Starter]:
    """Starts a backend on loopback and returns its URL."""
    with ExitStack() as stack:

        def start(backend: str = "stable", replica: str = "pod-1", **options: Any) -> str:
            server = stack.enter_context(
                Backend(("127.0.0.1", 0), backend=backend, replica=replica, **options)
            )
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}/"

        yield start


def ask(url: str, **options: Any) -> Traffic:
    chosen = {"requests": 200, "connections": 4, "timeout": 5.0, "seconds": 30.0} | options
    return send(url, **chosen)


def test_every_request_is_sent_once_and_counted_by_who_answered(serve: Starter) -> None:
    seen = ask(serve("canary", "pod-7"))
    assert (seen.sent, seen.ok, seen.errors) == (200, 200, {})
    assert seen.backends == {"canary": {"pod-7": [200, 0]}}
    assert seen.mixed_connections == 0
    assert set(seen.latency_ms) == {"p50", "p90", "p99", "max"}


@pytest.mark.parametrize("percent", [0, 7, 50, 100])
def test_a_backend_fails_the_share_that_it_is_told_to(serve: Starter, percent: int) -> None:
    seen = ask(serve(fail_percent=percent))
    assert seen.backends["stable"]["pod-1"] == [200 - 2 * percent, 2 * percent]
    assert seen.errors == ({"500": 2 * percent} if percent else {})
    assert seen.success_rate == (200 - 2 * percent) / 200


def test_latency_is_what_the_backend_takes(serve: Starter) -> None:
    seen = ask(serve(delay_ms=30), requests=40)
    assert 30 <= seen.latency_ms["p50"] <= seen.latency_ms["p99"] <= seen.latency_ms["max"]


def test_time_is_a_bound_too(serve: Starter) -> None:
    seen = ask(serve(delay_ms=100), requests=1_000_000, seconds=1.0)
    assert 0 < seen.sent < 100
    assert seen.sent == seen.ok


def test_where_nothing_listens_every_request_is_a_fault_by_name() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        seen = ask(f"http://127.0.0.1:{unused.getsockname()[1]}/", requests=8, connections=2)
    assert (seen.sent, seen.ok) == (8, 0)
    assert seen.errors == {"ConnectionRefusedError": 8}
    assert seen.latency_ms == {}


def test_a_backend_that_hangs_costs_the_timeout_and_no_more() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        seen = ask(url, requests=2, connections=2, timeout=0.3)
    assert (seen.sent, seen.ok) == (2, 0)
    assert seen.errors == {"TimeoutError": 2}


def test_requests_before_the_first_answer_are_not_counted() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    late = Backend(("127.0.0.1", port), backend="late", replica="p", delay_ms=0)
    # The server is bound but does not answer yet.
    starter = threading.Timer(1.0, late.serve_forever)
    starter.start()
    try:
        seen = ask(f"http://127.0.0.1:{port}/", warm_up=20.0, timeout=0.5, requests=20)
        assert (seen.sent, seen.ok) == (20, 20)
    finally:
        late.shutdown()
        late.server_close()


def test_the_identity_that_a_proxy_vouches_for_is_counted(serve: Starter) -> None:
    url = serve()
    seen = ask(url, headers={"l5d-client-id": "web.shop.identity"}, requests=10)
    assert seen.clients == {"web.shop.identity": 10}
    assert ask(url, requests=10).clients == {"": 10}


@pytest.mark.parametrize(
    ("error", "is_logged"),
    [(ConnectionResetError(), False), (TimeoutError(), False), (KeyError("a bug"), True)],
)
def test_a_client_that_hangs_up_is_no_news_and_a_bug_is(
    error: Exception, is_logged: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Backend(("127.0.0.1", 0), backend="b", replica="") as server:
        try:
            raise error
        except Exception:
            server.handle_error(None, ("127.0.0.1", 1))
    assert (type(error).__name__ in capsys.readouterr().err) == is_logged


def test_one_connection_that_several_replicas_answer_is_told_apart() -> None:
    answers = iter(range(1000))

    class Balanced(traffic._Answer):  # pyright: ignore[reportPrivateUsage]
        def do_GET(self) -> None:  # noqa: N802 the base's own name
            self.server.replica = f"pod-{next(answers) % 3}"  # type: ignore[attr-defined]
            super().do_GET()

    with Backend(("127.0.0.1", 0), backend="b", replica="") as server:
        server.RequestHandlerClass = Balanced
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen = ask(f"http://127.0.0.1:{server.server_address[1]}/", requests=90, connections=2)
        server.shutdown()
    assert seen.mixed_connections == 2
    assert set(seen.backends["b"]) == {"pod-0", "pod-1", "pod-2"}


def test_it_runs_as_it_is_put_into_the_cluster(tmp_path: Path) -> None:
    """On its own, without this project: both ends run as processes, stopped as a kubelet does."""
    program = tmp_path / "traffic.py"
    program.write_text(Path(traffic.__file__).read_text())
    command = [sys.executable, "-I", str(program)]
    with subprocess.Popen(
        [*command, "serve", "--port", "0", "--backend", "b", "--replica", "r"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split()[-1]
        result = tmp_path / "result"
        subprocess.run(
            [
                *(*command, "send", "--url", f"http://127.0.0.1:{port}/", "--requests", "30"),
                *("--warm-up", "5", "--result", str(result), "--header", "Host=x.example"),
            ],
            check=True,
            cwd=tmp_path,
            capture_output=True,
        )
        server.terminate()
        assert server.wait(20) == 0
    assert read_traffic(result.read_text()).backends == {"b": {"r": [30, 0]}}


def test_an_older_python_can_read_it_and_it_needs_nothing_else() -> None:
    tree = ast.parse(Path(traffic.__file__).read_text(), feature_version=(3, 9))
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= set(sys.stdlib_module_names)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=40),
        st.dictionaries(
            st.text(max_size=60),
            st.lists(st.integers(0, 9999), min_size=2, max_size=2),
            max_size=12,
        ),
        max_size=4,
    )
)
def test_a_result_fits_into_a_pods_status_and_keeps_its_counts(
    backends: dict[str, dict[str, list[int]]],
) -> None:
    written = write_traffic(Traffic(sent=5, ok=3, backends=backends, latency_ms={"p50": 1.5}))
    again = read_traffic(written)
    assert len(written.encode()) <= 4096
    assert len(written) <= RESULT_LIMIT or again.backends != backends
    for name in backends:
        assert again.answered(name) == sum(sum(counts) for counts in backends[name].values())
    assert (again.sent, again.ok, again.latency_ms) == (5, 3, {"p50": 1.5})


@pytest.mark.parametrize("text", ["", "Traceback", "[]", '"x"', '{"sent": 1, "unknown": 2}', "3"])
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_traffic(text)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_values_that_occurred_and_rise(values: list[float]) -> None:
    found = list(percentiles(values).values())
    assert found == sorted(found)
    assert set(found) <= {round(value, 2) for value in values}
    assert found[-1] == round(max(values), 2)


def test_the_result_is_one_line_of_json(serve: Starter) -> None:
    text = write_traffic(ask(serve(), requests=10))
    assert "\n" not in text
    assert json.loads(text)["ok"] == 10
