"""The program of the pods of smoke tests and the probe: a self-identifying backend, and clients.

    python3 traffic.py serve --backend stable --replica pod-1
    python3 traffic.py send --url http://web.shop.svc.cluster.local/ --requests 500
    python3 traffic.py probe --name 0-before --replica pod-1 --ask 0-before \\
        --url http://probe-1-{}.shop.svc.cluster.local/

`probe` is a backend that also keeps sending requests to other backends, and reports its counts on a
separate port: `/results`, and `/ask?server=A&server=B`, which first sets the backends to send to.
There it also reads the metrics of other proxies in its network:
`/metrics?proxy=10.0.0.7&name=response_total`.

This file goes into the cluster in a ConfigMap, and runs with any image that has Python
3.9 or newer; so it imports nothing but the standard library. Every command ends: `send` after its
number of requests or its time, the others with their pods.
"""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import json
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

BACKEND_HEADER = "smoke-backend"
REPLICA_HEADER = "smoke-replica"
CLIENT_HEADER = "smoke-client-id"
# Linkerd's inbound proxy sets it to the client's mTLS identity, and removes it if there is none.
# Source: linkerd2-proxy `linkerd/app/inbound/src/http/set_identity_header.rs`.
LINKERD_CLIENT_ID = "l5d-client-id"

# Why a proxy answered instead of the server. Source: linkerd2-proxy
# `linkerd/app/core/src/errors/respond.rs`.
LINKERD_ERROR = "l5d-proxy-error"

# The limit of a termination message in a pod's status (Kubernetes: 4096 bytes).
RESULT_LIMIT = 4000
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Traffic:
    """What a client saw.

    `backends` counts `[ok, failed]` of every replica that answered, by backend and replica; a
    request that no backend answered is in `sent` and `errors` only. `errors` counts by HTTP status
    or by exception. `clients` counts the answers by the mTLS identity that the backend's proxy saw,
    empty for none. `mixed_connections` of the `connections` were answered by more than one replica.
    `latency_ms` has `p50`, `p90`, `p99` and `max` of the successes.
    """

    sent: int = 0
    ok: int = 0
    seconds: float = 0.0
    connections: int = 0
    mixed_connections: int = 0
    backends: dict[str, dict[str, list[int]]] = field(
        default_factory=dict[str, "dict[str, list[int]]"]
    )
    errors: dict[str, int] = field(default_factory=dict[str, int])
    clients: dict[str, int] = field(default_factory=dict[str, int])
    latency_ms: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def success_rate(self) -> float:
        """The share of sent requests that succeeded; 0 if none were sent."""
        return self.ok / self.sent if self.sent else 0.0

    def answered(self, backend: str) -> int:
        """How many requests a backend answered, successfully or not."""
        return sum(sum(counts) for counts in self.backends.get(backend, {}).values())

    def failed(self, backend: str) -> int:
        return sum(counts[1] for counts in self.backends.get(backend, {}).values())


def read_traffic(text: str) -> Traffic:
    """Parses a result that the client wrote.

    Raises:
        ValueError: it is not such a result.
    """
    content: Any = json.loads(text)
    try:
        return Traffic(**content)
    except TypeError as error:
        raise ValueError(str(error)) from None


def write_traffic(traffic: Traffic) -> str:
    """A result as one line that fits into a pod's status; sums up replicas if it has to."""
    text = json.dumps(asdict(traffic), separators=(",", ":"))
    if len(text) <= RESULT_LIMIT:
        return text
    summed: dict[str, dict[str, list[int]]] = {}
    for backend, replicas in sorted(traffic.backends.items())[:20]:
        ok = sum(counts[0] for counts in replicas.values())
        summed[backend] = {"*": [ok, traffic.answered(backend) - ok]}
    content = asdict(traffic)
    content.update(backends=summed, errors=_largest(traffic.errors), clients={})
    return json.dumps(content, separators=(",", ":"))


def _largest(counts: dict[str, int], limit: int = 10) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: -item[1])[:limit])


class _Tally:
    """The counts so far, over all connections."""

    def __init__(self, requests: int, deadline: float) -> None:
        self._left = requests
        self._deadline = deadline
        self._lock = threading.Lock()
        self._sent = 0
        self._mixed = 0
        self._latencies: list[float] = []
        self._backends: dict[str, dict[str, list[int]]] = {}
        self._errors: dict[str, int] = {}
        self._clients: dict[str, int] = {}

    def take(self) -> bool:
        """Whether one more request may be sent."""
        with self._lock:
            if self._left <= 0 or time.monotonic() >= self._deadline:
                return False
            self._left -= 1
            return True

    def fault(self, name: str) -> None:
        with self._lock:
            self._sent += 1
            self._errors[name] = self._errors.get(name, 0) + 1

    def answer(self, response: http.client.HTTPResponse, seconds: float) -> str:
        """Counts an answer; returns the replica that gave it."""
        is_ok = 200 <= response.status < 300
        backend = response.getheader(BACKEND_HEADER)
        replica = response.getheader(REPLICA_HEADER, "")
        with self._lock:
            self._sent += 1
            if backend is not None:
                counts = self._backends.setdefault(backend, {}).setdefault(replica, [0, 0])
                counts[0 if is_ok else 1] += 1
                client = response.getheader(CLIENT_HEADER, "")
                self._clients[client] = self._clients.get(client, 0) + 1
            if is_ok:
                self._latencies.append(seconds * 1000)
            else:
                status = str(response.status)
                self._errors[status] = self._errors.get(status, 0) + 1
        return replica

    def connection(self, replicas: set[str]) -> None:
        with self._lock:
            self._mixed += len(replicas) > 1

    def traffic(self, connections: int, seconds: float) -> Traffic:
        with self._lock:
            return Traffic(
                sent=self._sent,
                ok=len(self._latencies),
                seconds=round(seconds, 3),
                connections=connections,
                mixed_connections=self._mixed,
                backends=self._backends,
                errors=self._errors,
                clients=self._clients,
                latency_ms=percentiles(self._latencies),
            )


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Nearest-rank percentiles and the maximum; empty without values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    found = {f"p{p}": ordered[max(0, -(-len(ordered) * p // 100) - 1)] for p in PERCENTILES}
    found["max"] = ordered[-1]
    return {name: round(value, 2) for name, value in found.items()}


def send(
    url: str,
    *,
    requests: int,
    connections: int,
    timeout: float,
    seconds: float,
    warm_up: float = 0.0,
    headers: dict[str, str] | None = None,
) -> Traffic:
    """Sends GET requests over connections that stay open, and counts what comes back.

    Args:
        requests: how many in all, over all connections.
        timeout: seconds that one request may take.
        seconds: after which no further request is sent.
        warm_up: seconds to wait for a backend's first answer; requests until then do not count.
    """
    target = urlsplit(url)
    sent_headers = {"User-Agent": "prefect-linkerd-smoke", **(headers or {})}

    def connect() -> http.client.HTTPConnection:
        return http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=timeout)

    def ask(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        connection.request("GET", target.path or "/", headers=sent_headers)
        if connection.sock is not None:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        response = connection.getresponse()
        response.read()
        return response

    def work() -> None:
        connection, replicas = connect(), set[str]()
        while tally.take():
            began = time.monotonic()
            try:
                response = ask(connection)
            except (OSError, http.client.HTTPException) as error:
                tally.fault(type(error).__name__)
                connection.close()
                tally.connection(replicas)
                connection, replicas = connect(), set[str]()
                # Nothing listens, or it hangs up: pause, so that not all requests fail at once.
                time.sleep(0.05)
                continue
            replicas.add(tally.answer(response, time.monotonic() - began))
        tally.connection(replicas)
        connection.close()

    _warm_up(connect, ask, warm_up)
    began = time.monotonic()
    tally = _Tally(requests, began + seconds)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + timeout + 5)
    return tally.traffic(connections, time.monotonic() - began)


def _warm_up(
    connect: Callable[[], http.client.HTTPConnection],
    ask: Callable[[http.client.HTTPConnection], http.client.HTTPResponse],
    seconds: float,
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        connection = connect()
        try:
            if ask(connection).getheader(BACKEND_HEADER) is not None:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.2)


class _Server(ThreadingHTTPServer):
    """Serves on an address; without a host on every address, of IPv6 as well."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        is_everywhere = not address[0] and socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if is_everywhere else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs nothing if the client has hung up, which it may."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Backend(_Server):
    """Answers every GET with its own name; fails a share of them with 500, in even steps."""

    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        *,
        backend: str,
        replica: str,
        fail_percent: int = 0,
        delay_ms: float = 0.0,
    ) -> None:
        self.backend = backend
        self.replica = replica
        self.fail_percent = fail_percent
        self.delay = delay_ms / 1000
        self._asked = 0
        self._counting = threading.Lock()
        super().__init__(address, _Answer)

    def next_status(self) -> int:
        with self._counting:
            before = self._asked * self.fail_percent // 100
            self._asked += 1
            return 500 if self._asked * self.fail_percent // 100 > before else 200


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes: without this the second waits for the client's ACK.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        server = cast("Backend", self.server)
        is_probe = self.path == "/ready"
        status = 200 if is_probe else server.next_status()
        if not is_probe:
            time.sleep(server.delay)
        body = f"{server.backend} {server.replica}\n".encode()
        self.send_response(status)
        self.send_header(BACKEND_HEADER, server.backend)
        self.send_header(REPLICA_HEADER, server.replica)
        self.send_header(CLIENT_HEADER, self.headers.get(LINKERD_CLIENT_ID, ""))
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base's own name
        """Logs nothing: a line for every request is noise."""


REASONS = 10
"""The most reasons of failure that are counted separately for each server."""
REASON_LIMIT = 200
DRAIN_SECONDS = 4
"""How long a pod of the probe serves after SIGTERM, unless it no longer sends requests."""
RECENT = 1000
"""The latest answers whose latencies are kept."""
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

ADMIN_PORT = 4191
"""Where a proxy serves its metrics."""
PROXIES = 100
"""The most proxies that one request may name."""
READERS = 32
METRIC = re.compile(r"[a-z_]{1,100}")


def read_metrics(
    addresses: Sequence[str],
    names: Sequence[str],
    *,
    seconds: float,
    connect: tuple[str, int] | None = None,
) -> dict[str, str]:
    """The lines of some metrics, from the admin ports of those proxies that answer in time.

    Other lines are dropped as they arrive, because a busy proxy exports megabytes of them.

    Args:
        addresses: IP addresses of pods.
        names: the names of the metrics.
        seconds: how long reading all proxies may take.
        connect: host and port of a proxy to send all requests to instead.
    """
    starts = tuple(name + end for name in names for end in "{ ")

    def read(address: str) -> str:
        connection = http.client.HTTPConnection(
            *(connect or (address, ADMIN_PORT)), timeout=seconds
        )
        try:
            host = f"[{address}]" if ":" in address else address
            connection.request("GET", "/metrics", headers={"Host": f"{host}:{ADMIN_PORT}"})
            response = connection.getresponse()
            if response.status != 200:
                raise ValueError(response.status)
            lines = (line.decode() for line in response)
            return "".join(line for line in lines if line.startswith(starts))
        finally:
            connection.close()

    pool = ThreadPoolExecutor(READERS)
    try:
        reading = {pool.submit(read, address): address for address in addresses}
        done, _ = wait(reading, timeout=seconds)
        return {reading[one]: one.result() for one in done if one.exception() is None}
    finally:
        # Unfinished requests end by their own timeout.
        pool.shutdown(wait=False, cancel_futures=True)


class Asking:
    """Keeps sending requests to one server until it is stopped, and counts the answers.

    Until the server's first answer, for at most `warm_up` seconds, failures are `early` and do not
    count as failed: a new Service is not known everywhere at once.

    Args:
        client: the name of the sender.
        server: the name of the backend that should answer.
        connect: host and port of a proxy to send requests to instead of the server.
    """

    def __init__(
        self,
        client: str,
        server: str,
        url: str,
        *,
        interval: float,
        timeout: float,
        warm_up: float,
        connect: tuple[str, int] | None = None,
    ) -> None:
        self._server, self._target = server, urlsplit(url)
        self._interval, self._timeout, self._warm_up = interval, timeout, warm_up
        self._address = connect or (self._target.hostname or "", self._target.port or 80)
        self._headers = {
            "User-Agent": f"prefect-linkerd-probe/{client}",
            "Host": self._target.netloc,
        }
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._ok = self._failed = self._early = self._identified = 0
        self._reasons: dict[str, int] = {}
        self._last = ""
        self._latencies: deque[float] = deque(maxlen=RECENT)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Lets the current request finish; sends no more after it."""
        self._over.set()
        self._thread.join(self._timeout + 1)

    def said(self) -> dict[str, Any]:
        """The counts so far: `ok`, `failed`, `reasons` of failures and so on, as JSON."""
        with self._lock:
            return {
                "ok": self._ok,
                "failed": self._failed,
                "early": self._early,
                "identified": self._identified,
                "reasons": dict(self._reasons),
                "last": self._last,
                "latency_ms": percentiles(self._latencies),
            }

    def _work(self) -> None:
        began = time.monotonic()
        connection: http.client.HTTPConnection | None = None
        while not self._over.is_set():
            asked = time.monotonic()
            if connection is None:
                connection = http.client.HTTPConnection(*self._address, timeout=self._timeout)
            try:
                connection.request("GET", self._target.path or "/", headers=self._headers)
                response = connection.getresponse()
                response.read()
                reason = self._judge(response)
            except (OSError, http.client.HTTPException) as error:
                response, reason = None, f"{type(error).__name__}: {error}"
            now = time.monotonic()
            if reason:
                connection.close()
                connection = None
            self._count(reason[:REASON_LIMIT], response, now - asked, now - began)
            self._over.wait(max(0.0, self._interval - (time.monotonic() - asked)))
        if connection is not None:
            connection.close()

    def _judge(self, response: http.client.HTTPResponse) -> str:
        """Why a response counts as failed; empty if it does not."""
        if why := response.getheader(LINKERD_ERROR):
            return f"{response.status}, {LINKERD_ERROR}: {why}"
        if not 200 <= response.status < 300:
            return str(response.status)
        backend = response.getheader(BACKEND_HEADER)
        if backend != self._server:
            return f"{response.status} from {backend or 'something else'}"
        return ""

    def _count(
        self,
        reason: str,
        response: http.client.HTTPResponse | None,
        took: float,
        age: float,
    ) -> None:
        with self._lock:
            if not reason and response is not None:
                self._ok += 1
                self._identified += bool(response.getheader(CLIENT_HEADER))
                self._latencies.append(took * 1000)
                return
            self._last = reason
            if not self._ok and not self._failed and age <= self._warm_up:
                self._early += 1
                return
            self._failed += 1
            if reason not in self._reasons and len(self._reasons) >= REASONS:
                reason = "other reasons"
            self._reasons[reason] = self._reasons.get(reason, 0) + 1


class Prober(_Server):
    """Sends requests to servers by their names, and reports the counts.

    Args:
        ask: makes the `Asking` of a server, without starting it.
        connect: see `read_metrics`.
    """

    def __init__(
        self,
        address: tuple[str, int],
        name: str,
        replica: str,
        ask: Callable[[str], Asking],
        connect: tuple[str, int] | None = None,
    ) -> None:
        self._name, self._replica, self._ask = name, replica, ask
        self.connect = connect
        self._process = uuid.uuid4().hex
        self._asked: dict[str, list[Asking]] = {}
        self._asking: dict[str, Asking] = {}
        self._changing = threading.Lock()
        self.answering = threading.Lock()
        super().__init__(address, _Results)

    def ask(self, servers: Sequence[str]) -> None:
        """Sends requests to these servers only; returns when none to another is in flight."""
        with self._changing:
            gone = [self._asking.pop(name) for name in set(self._asking) - set(servers)]
            for server in sorted(set(servers) - set(self._asking)):
                asking = self._ask(server)
                self._asking[server] = asking
                self._asked.setdefault(server, []).append(asking)
                asking.start()
            for asking in gone:
                asking.stop()

    @property
    def asks(self) -> bool:
        """Whether it still sends requests; False shortly before the pod is removed."""
        return bool(self._asking)

    def results(self) -> dict[str, Any]:
        """The counts of every server that it ever sent requests to, one piece for each start."""
        with self._changing:
            return {
                "client": self._name,
                "replica": self._replica,
                # A restarted container counts from 0 again, under the same pod's name.
                "process": self._process,
                "asks": sorted(self._asking),
                "servers": {
                    server: [one.said() for one in pieces] for server, pieces in self._asked.items()
                },
            }


class _Results(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        query = parse_qs(target.query)
        if target.path in ("/results", "/ask"):
            self._said(query.get("server", []), is_told=target.path == "/ask")
        elif target.path == "/metrics":
            self._metrics(query)
        else:
            self._answer(404, {"error": "the paths are /results, /ask and /metrics"})

    def _said(self, names: list[str], *, is_told: bool) -> None:
        server = cast("Prober", self.server)
        if not all(NAME.fullmatch(name) for name in names):
            self._answer(400, {"error": "not a server's name"})
            return
        with server.answering:
            if is_told:
                server.ask(names)
            self._answer(200, server.results())

    def _metrics(self, query: dict[str, list[str]]) -> None:
        names, addresses = query.get("name", []), query.get("proxy", [])
        try:
            seconds = min(float(query.get("seconds", ["1"])[0]), 60.0)
            for address in addresses:
                ipaddress.ip_address(address)
        except ValueError as error:
            self._answer(400, {"error": str(error)})
            return
        if len(addresses) > PROXIES or not all(METRIC.fullmatch(name) for name in names):
            self._answer(400, {"error": f"at most {PROXIES} proxies, and valid metric names"})
            return
        connect = cast("Prober", self.server).connect
        self._answer(200, read_metrics(addresses, names, seconds=seconds, connect=connect))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base's own name
        """Logs nothing: a line for every request is noise."""


def probe(given: argparse.Namespace) -> None:
    """Serves, sends requests and reports its counts, until the process ends."""
    host, _, port = str(given.connect).rpartition(":")
    connect = (host, int(port)) if given.connect else None

    def ask(server: str) -> Asking:
        return Asking(
            given.name,
            server,
            given.url.replace("{}", server),
            interval=given.interval,
            timeout=given.timeout,
            warm_up=given.warm_up,
            connect=connect,
        )

    backend = Backend((given.host, given.port), backend=given.name, replica=given.replica)
    address = (given.host, given.results_port)
    prober = Prober(address, given.name, given.replica, ask, connect)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: ended.set())
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    # Before `/ask` can name other servers.
    prober.ask(given.ask)
    threading.Thread(target=prober.serve_forever, daemon=True).start()
    ports = backend.server_address[1], prober.server_address[1]
    print(f"serving on ports {ports[0]} {ports[1]}", flush=True)
    ended.wait()
    # Clients learn of a drained node's pod only with a delay, so keep serving them until then.
    deadline = time.monotonic() + DRAIN_SECONDS
    while prober.asks and time.monotonic() < deadline:
        time.sleep(0.05)
    # Let the request that told us to stop sending get its response.
    with prober.answering:
        pass


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Traffic of smoke tests and the probe.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve")
    serve.add_argument("--host", default="127.0.0.1", help="empty: all addresses")
    serve.add_argument("--port", type=int, default=8080)
    serve.add_argument("--backend", required=True)
    serve.add_argument("--replica", required=True)
    serve.add_argument("--fail-percent", type=int, default=0)
    serve.add_argument("--delay-ms", type=float, default=0.0)
    client = commands.add_parser("send")
    client.add_argument("--url", required=True)
    client.add_argument("--requests", type=int, required=True)
    client.add_argument("--connections", type=int, default=4)
    client.add_argument("--timeout", type=float, default=5.0)
    client.add_argument("--seconds", type=float, default=60.0)
    client.add_argument("--warm-up", type=float, default=0.0)
    client.add_argument("--header", action="append", default=[], help="Name=value")
    client.add_argument("--result", default="/dev/termination-log")
    prober = commands.add_parser("probe")
    prober.add_argument("--host", default="127.0.0.1", help="empty: all addresses")
    prober.add_argument("--port", type=int, default=8080)
    prober.add_argument("--results-port", type=int, default=8081)
    prober.add_argument("--name", required=True)
    prober.add_argument("--replica", required=True)
    prober.add_argument("--url", required=True, help="a server's URL; {} stands for its name")
    prober.add_argument("--ask", action="append", default=[], help="a server's name")
    prober.add_argument("--interval", type=float, default=0.2)
    prober.add_argument("--timeout", type=float, default=5.0)
    prober.add_argument("--warm-up", type=float, default=30.0)
    prober.add_argument("--connect", default="", help="host:port to send requests to")
    return parser


def _stop(_number: int, _frame: FrameType | None) -> None:
    # The first process of a container gets no SIGTERM without a handler.
    sys.exit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments().parse_args(arguments)
    if given.command == "serve":
        signal.signal(signal.SIGTERM, _stop)
        with Backend(
            (given.host, given.port),
            backend=given.backend,
            replica=given.replica,
            fail_percent=given.fail_percent,
            delay_ms=given.delay_ms,
        ) as backend:
            print(f"serving on port {backend.server_address[1]}", flush=True)
            backend.serve_forever()
        return
    if given.command == "probe":
        probe(given)
        return
    traffic = send(
        given.url,
        requests=given.requests,
        connections=given.connections,
        timeout=given.timeout,
        seconds=given.seconds,
        warm_up=given.warm_up,
        headers=dict(header.partition("=")[::2] for header in given.header),
    )
    text = write_traffic(traffic)
    with open(given.result, "w") as result:  # noqa: PTH123 a device, not a path
        result.write(text)
    print(text)


if __name__ == "__main__":
    main()
