"""The probe's half of the program on loopback: it sends requests, takes targets, reports."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from prefect_linkerd.mesh.load import program
from prefect_linkerd.mesh.load.program import PROXIES, Asking, Backend, Prober, read_metrics


class StandIn(ThreadingHTTPServer):
    """A proxy between the probe and its servers, which answers as `says` sets."""

    daemon_threads = True

    def __init__(self) -> None:
        self.says: tuple[int, dict[str, str]] = (200, {})
        self.metrics: dict[str, str] = {}
        self.hosts: list[str] = []
        super().__init__(("127.0.0.1", 0), _Answer)

    def handle_error(self, *_: object) -> None:
        pass


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, StandIn)
        server.hosts.append(self.headers["Host"])
        if self.path == "/metrics":
            # An unknown host raises KeyError, which closes the connection.
            body = server.metrics[self.headers["Host"]].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        status, headers = server.says
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


OK = {"smoke-backend": "1-spread", "smoke-client-id": "probe.linkerd"}


@pytest.fixture
def proxy() -> Iterator[StandIn]:
    with StandIn() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


Ask = Callable[..., Asking]


@pytest.fixture
def ask(proxy: StandIn) -> Iterator[Ask]:
    with ExitStack() as stack:

        def start(warm_up: float = 0.0) -> Asking:
            asking = Asking(
                "0-before",
                "1-spread",
                "http://probe-1-spread.shop.svc.cluster.local/",
                interval=0.005,
                timeout=2,
                warm_up=warm_up,
                connect=("127.0.0.1", proxy.server_address[1]),
            )
            asking.start()
            stack.callback(asking.stop)
            return asking

        yield start


def until(asking: Asking, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while not holds(said := asking.said()):
        assert time.monotonic() < deadline, said
        time.sleep(0.01)
    return said


def test_answers_latencies_and_identities_are_counted(proxy: StandIn, ask: Ask) -> None:
    proxy.says = 200, OK
    said = until(ask(), lambda said: said["ok"] >= 20)
    assert said["failed"] == said["early"] == 0
    assert said["identified"] == said["ok"]
    assert said["latency_ms"]["p99"] > 0
    assert set(proxy.hosts) == {"probe-1-spread.shop.svc.cluster.local"}


def test_a_failure_has_the_proxys_own_reason(proxy: StandIn, ask: Ask) -> None:
    proxy.says = 200, OK
    asking = ask()
    until(asking, lambda said: said["ok"] > 0)
    proxy.says = 503, {"l5d-proxy-error": "invalid peer certificate: UnknownIssuer"}
    reason = "503, l5d-proxy-error: invalid peer certificate: UnknownIssuer"
    said = until(asking, lambda said: said["reasons"].get(reason, 0) >= 3)
    assert said["failed"] >= 3
    assert said["last"] == reason


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ((500, {}), "500"),
        ((200, {}), "200 from something else"),
        ((200, {"smoke-backend": "0-before"}), "200 from 0-before"),
    ],
)
def test_an_answer_that_is_not_the_servers_is_a_failure(
    says: tuple[int, dict[str, str]], reason: str, proxy: StandIn, ask: Ask
) -> None:
    proxy.says = says
    assert reason in until(ask(), lambda said: said["failed"] > 0)["reasons"]


def test_before_the_first_answer_failures_count_only_after_the_warm_up(
    proxy: StandIn, ask: Ask
) -> None:
    proxy.says = 503, {}
    asking = ask(warm_up=60)
    assert until(asking, lambda said: said["early"] > 3)["failed"] == 0
    proxy.says = 200, OK
    until(asking, lambda said: said["ok"] > 0)
    # After the first answer every failure counts, even during the warm-up.
    proxy.says = 503, {}
    assert until(asking, lambda said: said["failed"] > 0)["reasons"] == {
        "503": asking.said()["failed"]
    }
    never = ask(warm_up=0.05)
    assert until(never, lambda said: said["failed"] > 0)["ok"] == 0


def test_nobody_is_asked_after_it_was_told_to_stop(proxy: StandIn, ask: Ask) -> None:
    proxy.says = 200, OK
    asking = ask()
    until(asking, lambda said: said["ok"] > 0)
    asking.stop()
    before = asking.said()
    time.sleep(0.05)
    assert asking.said() == before


def results(port: int, path: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_it_is_told_whom_to_ask_and_keeps_what_it_saw() -> None:
    """Also counts of servers that it no longer asks, so none is lost with a generation."""
    with (
        Backend(("127.0.0.1", 0), backend="0-before", replica="pod") as backend,
        Prober(
            ("127.0.0.1", 0),
            "0-before",
            "pod",
            lambda server: Asking(
                "0-before",
                server,
                f"http://{server}/",
                interval=0.005,
                timeout=2,
                warm_up=0,
                connect=("127.0.0.1", backend.server_address[1]),
            ),
        ) as prober,
    ):
        port = prober.server_address[1]
        for server in (backend, prober):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        assert results(port, "/results")[1]["servers"] == {}
        assert results(port, "/ask?server=0-before&server=1-spread")[1]["asks"] == [
            "0-before",
            "1-spread",
        ]
        while not (said := results(port, "/results")[1]["servers"])["0-before"][0]["ok"]:
            time.sleep(0.01)
        status, after = results(port, "/ask?server=0-before")
        assert (status, after["asks"]) == (200, ["0-before"])
        # Another backend answered in that server's place.
        assert set(after["servers"]["1-spread"][0]["reasons"]) == {"200 from 0-before"}
        assert after["servers"]["0-before"][0]["ok"] >= said["0-before"][0]["ok"]
        assert results(port, "/ask")[1]["asks"] == []
        # It asks only servers of the probe, whatever the request says.
        assert results(port, "/ask?server=http://example.com")[0] == 400
        assert results(port, "/anything")[0] == 404
        prober.shutdown()
        backend.shutdown()


METRICS = """\
# HELP response_total Total count of HTTP responses.
# TYPE response_total counter
response_total{direction="inbound",classification="success"} 7
response_total_bytes{direction="inbound"} 9
process_start_time_seconds 1778000000
identity_cert_expiration_timestamp_seconds 1778086400
"""
TOTAL = 'response_total{direction="inbound",classification="success"} 7\n'
EXPIRES = "identity_cert_expiration_timestamp_seconds 1778086400\n"


def test_it_reads_the_metrics_that_are_asked_for_of_the_proxies_that_answer(
    proxy: StandIn,
) -> None:
    proxy.metrics = {"10.0.0.1:4191": METRICS, "[fd00::1]:4191": METRICS}
    connect = ("127.0.0.1", proxy.server_address[1])
    asked = ["10.0.0.1", "fd00::1", "10.0.0.3"]
    said = read_metrics(asked, ["response_total"], seconds=2, connect=connect)
    assert said == {"10.0.0.1": TOTAL, "fd00::1": TOTAL}
    with Prober(
        ("127.0.0.1", 0), "0-before", "pod", lambda _: pytest.fail("told to ask"), connect
    ) as prober:
        threading.Thread(target=prober.serve_forever, daemon=True).start()
        port = prober.server_address[1]
        names = "name=response_total&name=identity_cert_expiration_timestamp_seconds"
        path = f"/metrics?proxy=10.0.0.1&{names}&seconds=2"
        assert results(port, path) == (200, {"10.0.0.1": TOTAL + EXPIRES})
        # It accepts only IP addresses, at most PROXIES of them, and only metric names.
        many = "&".join(f"proxy=10.0.{n // 250}.{n % 250}" for n in range(PROXIES + 1))
        for wrong in (f"proxy=example.com&{names}", f"{many}&{names}", "proxy=10.0.0.1&name=.*"):
            assert results(port, f"/metrics?{wrong}")[0] == 400
        prober.shutdown()


def test_a_proxy_that_takes_too_long_keeps_nobody_waiting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        address = silent.getsockname()[:2]
        assert read_metrics(["10.0.0.1"], ["response_total"], seconds=0.2, connect=address) == {}
        assert time.monotonic() - begin < 2


def test_told_to_end_it_serves_until_nobody_counts_on_it() -> None:
    """As on a drained node; a pod that was told to stop asking exits at once."""
    process = subprocess.Popen(
        [
            *(sys.executable, program.__file__, "probe", "--port", "0", "--results-port", "0"),
            *("--name", "0-before", "--replica", "pod", "--url", "http://127.0.0.1:9/{}"),
            *("--ask", "0-before"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        serves, tells = (int(word) for word in process.stdout.readline().split()[-2:])
        assert results(tells, "/results")[1]["asks"] == ["0-before"]
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        connection = http.client.HTTPConnection("127.0.0.1", serves, timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        assert results(tells, "/ask")[1]["asks"] == []
        assert process.wait(2) == 0
    finally:
        process.kill()
        process.wait()
