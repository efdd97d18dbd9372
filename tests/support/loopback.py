"""Stands in for a kubelet and Linkerd's data plane, so that smoke tests have traffic.

`LoopbackNode` is a node of a sandbox whose pods run as processes on 127.0.0.1: the program of their
ConfigMap, with their own arguments. Pods without one are simulated, as on every other node. Their
requests go through `DataPlane`, a proxy on loopback that reads Services, routes and splits from the
API server and applies them as Linkerd's proxies would. `ThroughNode` reaches the port on which the
probe's pods serve their results. `probe_on_simulated_nodes` runs a probe while all other pods stay
simulated.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.client import MERGE_PATCH, Cluster, Object
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe.options import NAMESPACE, ProbeOptions
from prefect_linkerd.mesh.probe.run import Probe, start_probe
from sandbox.cluster import Sandbox
from tests.support.waiting import eventually

NODE = "loopback"
TARGET_HEADER = "loopback-target"
IDENTITY = "default.emojivoto.serviceaccount.identity.linkerd.cluster.local"


PROGRAMS = ("backend", "client", "probe")
"""The containers that run the program of their ConfigMap."""


def cached(
    cluster: Cluster, version: str, kind: str, namespace: str | None = None, **query: str
) -> list[Object]:
    """Objects of a kind from the API server's cache, perhaps some milliseconds old.

    A caller that reads many times a second would otherwise make it query etcd each time.
    """
    if not cluster.serves(version, kind):
        return []
    path = cluster.path(version, kind, namespace)
    found = cluster.read(path, {"resourceVersion": "0", **query})["items"]
    return [{**obj, "apiVersion": version, "kind": kind} for obj in found or []]


def await_change(cluster: Cluster, kind: str, namespace: str, version: str) -> None:
    """Waits until an object of a kind changes in a namespace, for at most a second.

    Args:
        version: see `Cluster.list_to_watch`.
    """
    for _ in cluster.watch("v1", kind, namespace, version, 1):
        return


@dataclass
class Process:
    """A running pod: its process, and the port that it serves on.

    A pod that does not run the program is simulated and has no process.
    """

    pod: Object
    popen: subprocess.Popen[str] | None
    result: Path
    ip: str
    port: int = 0
    said: dict[str, Any] = field(default_factory=dict[str, Any])


class LoopbackNode:
    """A node with a kubelet of our own; a context manager that removes the node on exit.

    The other nodes are cordoned meanwhile.

    If `crash` is set, each client fails with it as its message instead of its result.

    Args:
        plane: what the pods' requests go through.
    """

    crash = ""

    def __init__(self, cluster: Cluster, folder: Path, plane: DataPlane) -> None:
        self.cluster, self.folder, self.plane = cluster, folder, plane
        self.processes: dict[str, Process] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._cordoned: list[str] = []
        self._started = 0
        plane.node = self

    def __enter__(self) -> Self:
        for node in list(self.cluster.list("v1", "Node")):
            name = node["metadata"]["name"]
            self.cluster.merge("v1", "Node", name, None, {"spec": {"unschedulable": True}})
            self._cordoned.append(name)
        self._appear({})
        return self

    def _appear(self, spec: Object) -> None:
        # The control plane's node selector needs this label.
        metadata = {"name": NODE, "labels": {"kubernetes.io/os": "linux"}}
        self.cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec})
        self._heartbeat()
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        for process in self.processes.values():
            if process.popen is not None:
                process.popen.kill()
                process.popen.wait()
        self.cluster.delete("v1", "Node", NODE)
        for name in self._cordoned:
            self.cluster.merge("v1", "Node", name, None, {"spec": {"unschedulable": None}})

    def _heartbeat(self) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now, "reason": "Loopback"}
        size = {"cpu": "100", "memory": "100Gi", "pods": "200"}
        info = {"containerRuntimeVersion": "process://1", "kubeletVersion": "v1.34.0"}
        self._status(
            "v1",
            "Node",
            NODE,
            None,
            {
                "conditions": [{**ready, "lastTransitionTime": now}],
                "capacity": size,
                "allocatable": size,
                "nodeInfo": {
                    **dict.fromkeys(
                        (
                            "architecture",
                            "bootID",
                            "kernelVersion",
                            "kubeProxyVersion",
                            "machineID",
                            "operatingSystem",
                            "osImage",
                            "systemUUID",
                        ),
                        "",
                    ),
                    **info,
                },
            },
        )
        self.cluster.apply(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": NODE, "namespace": "kube-node-lease"},
                "spec": {
                    "holderIdentity": NODE,
                    "leaseDurationSeconds": 40,
                    "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                },
            }
        )

    def _status(
        self, version: str, kind: str, name: str, namespace: str | None, status: Object
    ) -> None:
        path = self.cluster.path(version, kind, namespace, name) + "/status"
        self.cluster.request("PATCH", path, body={"status": status}, content_type=MERGE_PATCH)

    def _work(self) -> None:
        beat = time.monotonic()
        while not self._over.wait(0.1):
            # An object may disappear between a read and a write.
            with contextlib.suppress(ApiError, KeyError):
                if time.monotonic() - beat > 5:
                    beat = time.monotonic()
                    self._heartbeat()
                self._look()

    def _look(self) -> None:
        for pod in cached(self.cluster, "v1", "Pod", fieldSelector=f"spec.nodeName={NODE}"):
            self._tend(pod)

    def _tend(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        process = self.processes.get(uid)
        if pod["metadata"].get("deletionTimestamp"):
            if process is not None:
                if process.popen is not None:
                    process.popen.send_signal(signal.SIGTERM)
                    process.popen.wait(timeout=20)
                del self.processes[uid]
            path = self.cluster.path(
                "v1", "Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]
            )
            self.cluster.request("DELETE", path, body={"gracePeriodSeconds": 0})
        elif process is None:
            # A pod whose ConfigMap is missing waits for it, as on any kubelet.
            self.processes[uid] = self._start(pod)
        else:
            self._report(process)

    def _start(self, pod: Object) -> Process:
        namespace = pod["metadata"]["namespace"]
        spec = pod["spec"]
        self._started += 1
        ip = f"10.250.{self._started // 250}.{self._started % 250 + 1}"
        container = next((c for c in spec["containers"] if c["name"] in PROGRAMS), None)
        if container is None:
            return Process(pod, None, self.folder / "none", ip)
        volume = next(v for v in spec["volumes"] if v["name"] == "program")
        content = self.cluster.get("v1", "ConfigMap", volume["configMap"]["name"], namespace)
        if content is None:
            raise KeyError(f"ConfigMap/{namespace}/{volume['configMap']['name']}")
        folder = self.folder / pod["metadata"]["uid"]
        folder.mkdir(parents=True, exist_ok=True)
        for key, text in content["data"].items():
            (folder / key).write_text(text)
        result = folder / "termination-log"
        assert container["command"][0] == "python3"
        program = folder / Path(container["command"][1]).name
        arguments = [a.replace("$(POD_NAME)", pod["metadata"]["name"]) for a in container["args"]]
        if container["name"] == "probe":
            for flag in ("--host", "--port", "--results-port"):
                value = "127.0.0.1" if flag == "--host" else "0"
                arguments[arguments.index(flag) + 1] = value
            arguments += ["--connect", f"127.0.0.1:{self.plane.port}"]
        elif container["name"] == "backend":
            # In a cluster every pod has an address of its own; here each has a port.
            arguments[arguments.index("--host") + 1] = "127.0.0.1"
            arguments[arguments.index("--port") + 1] = "0"
        else:
            at = arguments.index("--url") + 1
            target = arguments[at].removeprefix("http://").rstrip("/")
            arguments[at] = f"http://127.0.0.1:{self.plane.port}/"
            is_meshed = any(c["name"] == "linkerd-proxy" for c in _containers(pod))
            arguments += ["--result", str(result)]
            arguments += ["--header", f"{TARGET_HEADER}={target},{'yes' if is_meshed else 'no'}"]
        popen = subprocess.Popen(
            [sys.executable, str(program), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        process = Process(pod, popen, result, ip)
        if container["name"] != "client":
            assert popen.stdout is not None
            ports = [int(word) for word in popen.stdout.readline().split() if word.isdigit()]
            process.port = ports[0]
            if container["name"] == "probe":
                annotations = {RESULTS_PORT: str(ports[1])}
                name, patch = pod["metadata"]["name"], {"metadata": {"annotations": annotations}}
                self.cluster.merge("v1", "Pod", name, namespace, patch)
        return process

    def _report(self, process: Process) -> None:
        code = process.popen.poll() if process.popen is not None else None
        pod = process.pod
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        running = {"running": {"startedAt": now}}
        state: dict[str, Any] = running
        if code is not None:
            message = process.result.read_text() if process.result.exists() else ""
            if self.crash:
                code, message = 1, self.crash
            state = {
                "terminated": {
                    "exitCode": code,
                    "message": message,
                    "startedAt": now,
                    "finishedAt": now,
                }
            }
        ready = "True" if code is None else "False"
        said = {"phase": "Running", "ready": ready, "code": code}
        if process.said == said:
            return
        conditions = [
            {"type": kind, "status": ready, "lastTransitionTime": now}
            for kind in ("Ready", "ContainersReady")
        ]
        statuses = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": code is None,
                "restartCount": 0,
                # The proxy keeps running when its application has exited.
                "state": state if container["name"] in PROGRAMS else running,
            }
            for container in pod["spec"]["containers"]
        ]
        over = {"terminated": {"exitCode": 0, "startedAt": now, "finishedAt": now}}
        first = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "started": is_sidecar,
                "state": running if is_sidecar else over,
            }
            for container in pod["spec"].get("initContainers", [])
            for is_sidecar in [container.get("restartPolicy") == "Always"]
        ]
        self._status(
            "v1",
            "Pod",
            pod["metadata"]["name"],
            pod["metadata"]["namespace"],
            {
                "phase": "Running",
                "conditions": conditions,
                "containerStatuses": statuses,
                "initContainerStatuses": first,
                "podIP": process.ip,
                "podIPs": [{"ip": process.ip}],
                "startTime": now,
            },
        )
        # Remembered only once the write succeeded, so that a refused one is repeated.
        process.said = said

    def ports(self, selector: dict[str, str], namespace: str) -> dict[str, tuple[int, bool]]:
        """The ports of the pods that a Service selects, and whether each is meshed."""
        return {
            process.pod["metadata"]["name"]: (
                process.port,
                any(c["name"] == "linkerd-proxy" for c in _containers(process.pod)),
            )
            for process in list(self.processes.values())
            if process.port
            and process.pod["metadata"]["namespace"] == namespace
            and selector.items() <= process.pod["metadata"].get("labels", {}).items()
        }


class SimulatedPodProcesses(LoopbackNode):
    """Runs processes for one namespace's pods, which stay on simulated nodes like all others.

    Its own node shows that this cluster runs containers, and is tainted so that it gets no pod.
    """

    def __init__(self, cluster: Cluster, folder: Path, plane: DataPlane, namespace: str) -> None:
        super().__init__(cluster, folder, plane)
        self._namespace = namespace

    def __enter__(self) -> Self:
        self._appear({"taints": [{"key": NODE, "effect": "NoSchedule"}]})
        return self

    def _look(self) -> None:
        """Looks once, then waits for a change, so that watching costs almost nothing."""
        found, version = self.cluster.list_to_watch("v1", "Pod", self._namespace)
        pods = {
            pod["metadata"]["uid"]: pod
            for pod in found
            if not pod["metadata"].get("deletionTimestamp")
        }
        for uid in self.processes.keys() - pods.keys():
            if (popen := self.processes.pop(uid).popen) is not None:
                popen.send_signal(signal.SIGTERM)
                popen.wait(timeout=20)
        for uid in pods.keys() - self.processes.keys():
            self.processes[uid] = self._start(pods[uid])
        await_change(self.cluster, "Pod", self._namespace, version)


def _containers(pod: Object) -> list[dict[str, Any]]:
    return pod["spec"]["containers"] + pod["spec"].get("initContainers", [])


UNTRUSTED = "client error (Connect): invalid peer certificate: UnknownIssuer"
"""A proxy's error if it does not trust the anchor of its peer's certificate."""


def phase_of(name: str) -> str:
    """The phase of a generation of the probe, from its name or its Service's."""
    found = re.search(r"(?:^|-)\d+-([a-z-]+)$", name)
    return found[1] if found is not None else ""


class ThroughNode(Cluster):
    """The API server for pods that are processes here, to whose ports it cannot proxy.

    It still gets each request, so that it checks whether this identity is allowed.
    """

    silent: frozenset[str] = frozenset()
    """Pods whose results cannot be reached."""

    @classmethod
    def of(cls, cluster: Cluster) -> ThroughNode:
        """The cluster as the identity of `cluster` sees it."""
        return cls(cluster._as_kubeconfig())

    def request(self, method: str, path: str, **options: Any) -> Any:
        return through_node(Cluster.request, self, method, path, self.silent, **options)


def through_node(
    request: Callable[..., Any],
    cluster: Cluster,
    method: str,
    path: str,
    silent: frozenset[str] = frozenset(),
    **options: Any,
) -> Any:
    """Sends a request, or forwards it to a pod's process if it is for the pod's results port."""
    found = RESULTS.fullmatch(path)
    if found is None:
        return request(cluster, method, path, **options)
    try:
        request(cluster, method, path, **options)
    except ApiError as error:
        if error.status == 403 or found["pod"] in silent:
            raise
    port = _results_port(cluster, found["place"], found["pod"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, found["rest"])
    answer = connection.getresponse()
    return answer.read(), answer.headers


_ports: dict[tuple[str, str], int] = {}


def _results_port(cluster: Cluster, place: str, name: str) -> int:
    """The port of a pod's process, once it has one; cached, as pod names are not reused."""

    def said() -> str:
        (pod,) = cluster.list("v1", "Pod", place, fields=f"metadata.name={name}")
        return pod["metadata"].get("annotations", {}).get(RESULTS_PORT, "")

    if (place, name) not in _ports:
        _ports[place, name] = int(eventually(said, 20, every=0.1))
    return _ports[place, name]


RESULTS_PORT = "loopback.prefect-linkerd/results"
"""The annotation of a pod with the port on which its process serves its results."""

RESULTS = re.compile(
    r"/api/v1/namespaces/(?P<place>[^/]+)/pods/(?P<pod>[^/:]+):8081/proxy(?P<rest>/.*)"
)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A census connects to hundreds of proxies at once.
    request_queue_size = 1024


class DataPlane:
    """Does with a request what Linkerd's proxies and Traefik do, from the API server's objects.

    `ignores_splits`, `ignores_override` and `sticks` make it behave like a broken mesh;
    `refuses_routes` makes it reject every HTTPRoute. `breaks` are the pairs of phases of the
    probe's generations where the client's proxy answers that it cannot reach the server.

    Args:
        egress: the socket that leads to proxies' admin ports; None: they are unreachable.
        namespace: the only one whose Services it reads, which is cheaper; None: those of all
            namespaces, and routes and splits.
    """

    def __init__(
        self, cluster: Cluster, egress: Path | None = None, *, namespace: str | None = None
    ) -> None:
        self.cluster = cluster
        self.egress = egress
        self._namespace = namespace
        self.node: LoopbackNode | None = None
        self.ignores_splits = False
        self.ignores_override = False
        self.sticks = False
        self.refuses_routes = False
        self.breaks: set[tuple[str, str]] = set()
        self._over = threading.Event()
        self._state: dict[str, list[Object]] = {}
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.port: int = self._server.server_address[1]
        self._threads = [
            threading.Thread(target=self._server.serve_forever, daemon=True),
            threading.Thread(target=self._watch, daemon=True),
        ]

    def repair(self) -> None:
        """Makes it behave like a working mesh again."""
        self.ignores_splits = self.ignores_override = self.sticks = self.refuses_routes = False
        if self.node is not None:
            self.node.crash = ""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        # Right after the API server starts, the first read can take longer than clients wait.
        eventually(lambda: self._state, every=0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    KINDS = (
        ("v1", "Service"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("policy.linkerd.io/v1beta3", "HTTPRoute"),
        ("linkerd.io/v1alpha2", "ServiceProfile"),
        ("split.smi-spec.io/v1alpha2", "TrafficSplit"),
        ("traefik.io/v1alpha1", "IngressRoute"),
        ("traefik.io/v1alpha1", "Middleware"),
    )

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            with contextlib.suppress(ApiError):
                state: dict[str, list[Object]] = {kind: [] for _, kind in self.KINDS}
                if self._namespace is not None:
                    found, version = self.cluster.list_to_watch("v1", "Service", self._namespace)
                    self._state = {**state, "Service": list(found)}
                    await_change(self.cluster, "Service", self._namespace, version)
                    continue
                for version, kind in self.KINDS:
                    state[kind].extend(cached(self.cluster, version, kind))
                self._state = state
                for route in state["HTTPRoute"]:
                    self._accept(route)

    def _accept(self, route: Object) -> None:
        """Writes the route's status as Linkerd's policy controller does."""
        if route.get("status", {}).get("parents"):
            return
        status = "False" if self.refuses_routes else "True"
        condition = {
            "type": "Accepted",
            "status": status,
            "reason": "NoMatchingParent" if self.refuses_routes else "Accepted",
            "message": "",
            "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        parent = {
            "parentRef": route["spec"]["parentRefs"][0],
            "controllerName": "linkerd.io/policy-controller",
            "conditions": [condition],
        }
        metadata = route["metadata"]
        path = self.cluster.path(
            route["apiVersion"], route["kind"], metadata["namespace"], metadata["name"]
        )
        self.cluster.request(
            "PATCH",
            path + "/status",
            body={"status": {"parents": [parent]}},
            content_type=MERGE_PATCH,
        )

    def choose(self, target: str, host: str) -> tuple[str, str]:
        """The Service (name, namespace) that answers a request to a host, after all routes."""
        name, namespace = target.split(":")[0].split(".")[:2]
        if namespace == "traefik":
            name, namespace = self._through_traefik(host)
        for weights in self._splits(name, namespace):
            chosen = random.choices(list(weights), list(weights.values()))[0]  # noqa: S311
            return chosen, namespace
        return name, namespace

    def _through_traefik(self, host: str) -> tuple[str, str]:
        for obj in self._state["IngressRoute"]:
            rule = obj["spec"]["routes"][0]
            if rule["match"] != f"Host(`{host}`)":
                continue
            namespace = obj["metadata"]["namespace"]
            names = [m["name"] for m in rule["middlewares"]]
            for middleware in self._state["Middleware"]:
                if middleware["metadata"]["name"] in names and not self.ignores_override:
                    headers = middleware["spec"]["headers"]["customRequestHeaders"]
                    name, namespace = headers["l5d-dst-override"].split(".")[:2]
                    return name, namespace
            return rule["services"][0]["name"], namespace
        return "web-svc", "emojivoto"

    def _splits(self, name: str, namespace: str) -> list[dict[str, int]]:
        if self.ignores_splits:
            return []
        found: list[dict[str, int]] = []
        for obj in self._state["HTTPRoute"]:
            if obj["spec"]["parentRefs"][0]["name"] == name:
                backends = obj["spec"]["rules"][0]["backendRefs"]
                found.append({b["name"]: b["weight"] for b in backends})
        for obj in self._state["TrafficSplit"]:
            if obj["spec"]["service"] == name:
                found.append({b["service"]: b["weight"] for b in obj["spec"]["backends"]})
        for obj in self._state["ServiceProfile"]:
            if obj["metadata"]["name"].startswith(f"{name}.{namespace}."):
                overrides = obj["spec"].get("dstOverrides", [])
                found.append({o["authority"].split(".")[0]: o["weight"] for o in overrides})
        return found

    def pods(self, name: str, namespace: str) -> dict[str, tuple[int, bool]]:
        assert self.node is not None
        for obj in self._state["Service"]:
            if (obj["metadata"]["name"], obj["metadata"]["namespace"]) == (name, namespace):
                return self.node.ports(obj["spec"].get("selector", {}), namespace)
        return {}

    def admin(self, host: str) -> tuple[int, bytes]:
        """The status and metrics that the admin port of a pod's proxy answers.

        Args:
            host: the pod's address, with the port.
        """
        if self.egress is None:
            return 502, b"unreachable"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.egress))
            connection.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            tunnel = http.client.HTTPResponse(connection, method="CONNECT")
            tunnel.begin()
            if tunnel.status != 200:
                return tunnel.status, b""
            connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()

    def _handler(plane) -> type[BaseHTTPRequestHandler]:  # noqa: N805 the handler has its own self
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            upstream: dict[int, _Upstream]
            mine: int | None
            asked: dict[str, str]
            raw_requestline: bytes

            def setup(self) -> None:
                super().setup()
                self.upstream, self.mine = {}, None

            def finish(self) -> None:
                super().finish()
                for connection in self.upstream.values():
                    connection.close()

            def parse_request(self) -> bool:
                words = self.raw_requestline.decode().split()
                self.command, self.path, self.request_version = words
                self.asked = _read_headers(self.rfile)
                self.close_connection = self.asked.get("connection") == "close"
                return True

            def do_GET(self) -> None:
                host = self.asked["host"]
                if host.endswith(":4191"):
                    status, body = plane.admin(host)
                    return self.answer(status, {}, body)
                target, _, is_meshed = self.asked.get(TARGET_HEADER, f"{host},yes").partition(",")
                name, namespace = plane.choose(target, host)
                client = self.asked.get("user-agent", "").rpartition("/")[2]
                if (phase_of(client), phase_of(name)) in plane.breaks:
                    return self.answer(503, {"l5d-proxy-error": UNTRUSTED}, b"")
                if (name, namespace) == ("web-svc", "emojivoto"):
                    return self.answer(200, {}, b"emojivoto")
                pods = list(plane.pods(name, namespace).values())
                if not pods:
                    return self.answer(503, {}, b"no endpoints")
                port, has_proxy = random.choice(pods)  # noqa: S311
                if plane.sticks:
                    # As with kube-proxy, a connection keeps its pod.
                    self.mine = port = self.mine or port
                sees_identity = has_proxy and (is_meshed == "yes" or "traefik" in target)
                headers = {"l5d-client-id": IDENTITY} if sees_identity else {}
                if port not in self.upstream:
                    self.upstream[port] = _Upstream(port)
                status, answered, body = self.upstream[port].get(self.path, headers)
                kept = {k: v for k, v in answered.items() if k.startswith("smoke-")}
                return self.answer(status, kept, body)

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body)}"]
                lines += [f"{key}: {value}" for key, value in headers.items()]
                self.wfile.write("\r\n".join([*lines, "", ""]).encode() + body)

        return Handler


class _Upstream:
    """A connection to the process of a pod.

    The standard library's server and client would take twice the processor time of the processes
    that they connect.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._file = self._socket.makefile("rb")

    def get(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        lines = [f"GET {path} HTTP/1.1", "Host: pod"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        status = int(self._file.readline().split()[1])
        answered = _read_headers(self._file)
        return status, answered, self._file.read(int(answered["content-length"]))

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def _read_headers(file: BufferedIOBase) -> dict[str, str]:
    """Reads headers, by their names in lower case."""
    found: dict[str, str] = {}
    while line := file.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        found[name.lower()] = value.strip()
    return found


@contextmanager
def probe_on_simulated_nodes(
    sandbox: Sandbox, cluster: Cluster, config: MeshConfig, folder: Path
) -> Generator[tuple[Cluster, Probe]]:
    """A probe that sends requests on simulated nodes, and a client that can read its results.

    Args:
        cluster: the cluster with the identity of the probe's run.
    """
    admin, client = sandbox.cluster(), ThroughNode.of(cluster)
    with (
        DataPlane(admin, sandbox.egress, namespace=NAMESPACE) as plane,
        SimulatedPodProcesses(admin, folder, plane, NAMESPACE),
    ):
        probe = start_probe(Mesh(client, config), ProbeOptions())
        try:
            yield client, probe
        finally:
            probe.end()
