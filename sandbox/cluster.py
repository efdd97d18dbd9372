"""A Kubernetes control plane on this machine: real API and controllers, no containers.

This module starts the programs itself instead of using `kwokctl` with its binary runtime. Measured
with kwokctl 0.8.0 and the same programs, side by side on a busy machine, a cluster takes 6.6 s with
kwokctl and 6.9 s here; several clusters at once and an audit log work with both. But with kwokctl

- programs are daemons, which outlive a killed test; here they die with their parent;
- the API server listens on every interface and has no CA for request headers, without which an
  extension API server (viz's tap) cannot identify the user; one key serves TLS, signs tokens and
  authenticates the front proxy;
- the egress selector's proxy, our companion, cannot be a component and would have to be started
  and stopped separately;
- a snapshot needs `etcdctl` as one more program, and restoring one restarts every component; here
  a snapshot is a copy of a folder.

We would have to patch most of its arguments, so kwokctl would save only the smaller part.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import orjson
import yaml
from platformdirs import user_state_path

from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.server.loopback import NO_TLS, free_ports
from sandbox.binaries import KUBERNETES, Binaries, ensure_binaries
from sandbox.credentials import Credentials
from sandbox.errors import SandboxError

STAGES = Path(__file__).with_name("stages.yaml")
RESTORED_STAGES = Path(__file__).with_name("restored-stages.yaml")
START_TIMEOUT = 60.0
# kwok's range for pods of nodes without a podCIDR; no packet is ever sent there.
POD_CIDR = "10.244.0.1/16"
SERVICE_CIDR = "10.96.0.0/12"
SAVED = ("etcd", "pki")
"""The folders of a cluster's data that hold its state."""
NODE_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
GARBAGE = "400"
"""How much the programs' heaps grow between two garbage collections, in percent (Go's GOGC).

It saves a quarter of the API server's CPU time, for 100 MB of memory.
"""
ETCD, ETCD_PEER = "unix://etcd:2379", "unix://etcd:2380"
"""etcd's addresses: sockets in the data folder, which only its owner can enter, as etcd does not
authenticate clients. A socket is also cheaper than a port. The numbers are only part of the file
names, because etcd 3.5 requires them.
"""
SOCKET_PATH = 103
"""The most bytes that the path of a Unix socket may have: macOS's limit, which is the lowest."""
AUDIT_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts:prefect"]}],
}


def state_folder() -> Path:
    """The folder of detached sandboxes."""
    return user_state_path("prefect-linkerd") / "sandboxes"


@dataclass(frozen=True)
class RunningProxy:
    """A running proxy, with what it has in memory.

    `bundle` is its trust bundle and `chain` its leaf with the issuer's chain, both PEM; `chain` is
    empty if it has no certificate.
    """

    namespace: str
    name: str
    uid: str
    deleting: bool
    bundle: str
    chain: str


class Sandbox:
    """One cluster, with its own ports on 127.0.0.1 and its own data folder.

    As a context manager it starts the cluster, and stops it and deletes its data at the end of the
    block. `start` and `stop` do the same manually. A `detached` one outlives this process and is
    found again by its name.

    Args:
        name: identifies the sandbox in messages and, when detached, on disk.
        detached: whether it outlives this process.
        nodes: number of simulated nodes.
        audited: whether the API server logs the requests of ServiceAccounts in namespace `prefect`,
            for `audit_log`.
        saved: a folder that `save` wrote: the cluster starts in the saved state, with the same
            number of nodes, on its own ports.
        binaries: its programs; by default those that `ensure_binaries` finds, downloads or builds.
    """

    def __init__(
        self,
        name: str = "sandbox",
        *,
        detached: bool = False,
        nodes: int = 4,
        audited: bool = False,
        saved: Path | None = None,
        binaries: Binaries | None = None,
    ) -> None:
        self.name = name
        self.nodes = nodes
        self._audited = audited
        self._saved = saved
        self._detached = detached
        self._data: Path | None = state_folder() / name if detached else None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._pids: dict[str, int] = {}
        self._ports: dict[str, int] = {}
        self._binaries = binaries
        if detached:
            self._read_state()

    # Public interface

    @property
    def data(self) -> Path:
        if self._data is None:
            raise SandboxError(f"sandbox {self.name} is not started")
        return self._data

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, with a token.

        With a client certificate the API server would verify it again for each request, which is a
        sixth of its work for a whole snapshot of a mesh.
        """
        return self.data / "kubeconfig"

    @property
    def certificate_kubeconfig(self) -> Path:
        """The same administrator's kubeconfig, with a client certificate."""
        return self.data / "certificate.kubeconfig"

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self._ports['kube-apiserver']}"

    @property
    def binaries(self) -> Binaries:
        if self._binaries is None:
            self._binaries = ensure_binaries()
        return self._binaries

    def cluster(self, *, patience: float = 20.0, request_timeout: float = 30.0) -> Cluster:
        """The cluster, as the administrator; for the options see `Cluster`."""
        return Cluster.from_file(
            self.kubeconfig, patience=patience, request_timeout=request_timeout
        )

    def proxies(self) -> list[RunningProxy]:
        """Returns the proxies that are running now, with the certificates that they hold."""
        socket_path = str(self.data / "proxies.sock")
        transport = httpx.HTTPTransport(uds=socket_path, verify=NO_TLS)
        with httpx.Client(transport=transport, timeout=30, trust_env=False) as client:
            answer = client.get("http://companion/").raise_for_status()
        return [RunningProxy(**item) for item in orjson.loads(answer.content)]

    def audit_log(self) -> list[dict[str, Any]]:
        """Returns the requests of ServiceAccounts in namespace `prefect`, as audit.k8s.io Events.

        The sandbox has to be `audited`. The API server writes an event once it has answered the
        request.
        """
        return [json.loads(line) for line in (self.data / "audit.log").read_text().splitlines()]

    def status(self) -> dict[str, bool]:
        """Returns whether each of its programs is running; empty if it was never started."""
        return {name: self._runs(name) for name in self._pids}

    @property
    def is_running(self) -> bool:
        return bool(self._pids) and all(self.status().values())

    # Life

    def start(self) -> Self:
        """Starts everything and waits until pods can run.

        Raises:
            SandboxError: a program ended or was not ready in time; with the end of its log.
                Nothing is left running.
        """
        if self.is_running:
            return self
        try:
            self.stop()
            self._prepare()
            self._run()
        except BaseException:
            self.stop()
            raise
        return self

    def save(self, folder: Path) -> None:
        """Saves the cluster's current state to a folder, from which others can be started.

        It keeps running: only its etcd is suspended during the copy, for at most a second on an
        otherwise idle machine. The folder holds the cluster's keys and Secrets.

        Raises:
            SandboxError: it is not running, the folder already exists, or etcd could not be
                suspended.
        """
        if not self.is_running:
            raise SandboxError(f"sandbox {self.name} is not running: start it before you save it")
        if folder.exists():
            raise SandboxError(f"{folder} exists already: choose another folder, or delete it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            # A suspended etcd's files are in the state that it recovers from after a crash.
            with self._suspended("etcd"):
                for part in SAVED:
                    shutil.copytree(self.data / part, partial / part, copy_function=copy_sparse)
            state = {"kubernetes": KUBERNETES, "nodes": self.nodes}
            (partial / "saved.json").write_text(json.dumps(state))
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def _suspended(self, name: str) -> Iterator[None]:
        """Suspends one of its programs during the block."""
        self._signal(name, signal.SIGSTOP)
        try:
            deadline = time.monotonic() + 10
            while not _is_stopped(self._pids[name]):
                if time.monotonic() > deadline:
                    raise SandboxError(f"sandbox {self.name}: {name} could not be suspended")
                time.sleep(0.01)
            yield
        finally:
            self._signal(name, signal.SIGCONT)

    def stop(self) -> None:
        """Stops its processes and deletes its data; does nothing if it is not running."""
        # They are killed: what a clean shutdown writes would be deleted anyway.
        self._end_programs()
        if self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
            if not self._detached:
                self._data = None

    def _end_programs(self) -> None:
        # The API server and etcd last, because the others depend on them.
        order = [name for name in self._pids if name not in ("etcd", "kube-apiserver")]
        order += [name for name in ("kube-apiserver", "etcd") if name in self._pids]
        for name in order:
            self._signal(name, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while any(map(self._runs, order)) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._processes.clear()
        self._pids.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Faults that tests cause

    def stop_apiserver(self) -> None:
        """Kills only the API server, as if it had crashed."""
        self._signal("kube-apiserver", signal.SIGKILL)
        while self._runs("kube-apiserver"):
            time.sleep(0.02)

    def start_apiserver(self) -> None:
        """Starts the API server with the same port and data as before."""
        data = self.data
        port = self._ports["kube-apiserver"]
        keys = data / "pki"
        self._spawn(
            "kube-apiserver",
            self.binaries.kube_apiserver,
            f"--etcd-servers={ETCD}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--tls-cert-file={keys}/server.crt",
            f"--tls-private-key-file={keys}/server.key",
            f"--client-ca-file={keys}/ca.crt",
            f"--token-auth-file={data}/tokens.csv",
            f"--requestheader-client-ca-file={keys}/ca.crt",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={keys}/front-proxy.crt",
            f"--proxy-client-key-file={keys}/front-proxy.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys}/service-account.pub",
            f"--service-account-signing-key-file={keys}/service-account.key",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            f"--egress-selector-config-file={data}/egress.yaml",
            "--max-requests-inflight=2000",
            "--max-mutating-requests-inflight=1000",
            "--profiling=false",
            "--shutdown-delay-duration=0s",
            *(
                (f"--audit-policy-file={data}/audit.yaml", f"--audit-log-path={data}/audit.log")
                if self._audited
                else ()
            ),
        )

    # Parts

    def _prepare(self) -> None:
        if self._data is None:
            self._data = Path(tempfile.mkdtemp(prefix="sandbox-"))
        data = self._data
        if len(longest := bytes(data / "proxies.sock")) > SOCKET_PATH:
            raise SandboxError(
                f"sandbox {self.name}: {data} is too long a path for its Unix sockets, by "
                f"{len(longest) - SOCKET_PATH} bytes: choose a shorter name, TMPDIR or "
                "XDG_STATE_HOME"
            )
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ports = {"kube-apiserver": free_ports(1)[0]}
        if self._saved is None:
            credentials = Credentials(data / "pki")
            credentials.issue("server", "kube-apiserver")
            credentials.issue("admin", "sandbox-admin", "system:masters")
            credentials.issue("front-proxy", "front-proxy")
            credentials.signing_key("service-account")
        else:
            self._restore(self._saved)
        tokens = {name: secrets.token_urlsafe(32) for name in ("admin", "programs")}
        certificate = {
            "client-certificate-data": self._embedded("admin.crt"),
            "client-key-data": self._embedded("admin.key"),
        }
        # Comma-separated: token, user, UID and group.
        users = [
            f"{token},sandbox-{name},{name},system:masters\n" for name, token in tokens.items()
        ]
        # JSON, which is valid YAML, because Go does not parse a bare `y` or `1` as a string.
        for path, text in (
            (self.kubeconfig, self._kubeconfig_of("admin", {"token": tokens["admin"]})),
            (self.certificate_kubeconfig, self._kubeconfig_of("admin", certificate)),
            (
                self._programs_kubeconfig,
                self._kubeconfig_of("programs", {"token": tokens["programs"]}),
            ),
            (data / "tokens.csv", "".join(users)),
        ):
            path.touch(mode=0o600)
            path.write_text(text)
        egress = {
            "apiVersion": "apiserver.k8s.io/v1beta1",
            "kind": "EgressSelectorConfiguration",
            "egressSelections": [
                {
                    "name": "cluster",
                    "connection": {
                        "proxyProtocol": "HTTPConnect",
                        "transport": {"uds": {"udsName": str(self.egress)}},
                    },
                }
            ],
        }
        (data / "egress.yaml").write_text(yaml.safe_dump(egress))
        if self._audited:
            (data / "audit.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))

    def _restore(self, saved: Path) -> None:
        try:
            state = json.loads((saved / "saved.json").read_text())
        except (OSError, ValueError):
            raise SandboxError(
                f"{saved} holds no saved sandbox: name a folder that `python -m sandbox save` wrote"
            ) from None
        if state["kubernetes"] != KUBERNETES:
            raise SandboxError(
                f"{saved} was saved with Kubernetes {state['kubernetes']}, and this sandbox has "
                f"{KUBERNETES}: save it again"
            )
        self.nodes = state["nodes"]
        for part in SAVED:
            shutil.copytree(saved / part, self.data / part, copy_function=copy_sparse)

    def _run(self) -> None:
        """Starts every program on the existing data and waits until pods can run."""
        data, binaries = self.data, self.binaries
        for left in ("companion.ready", "egress.sock", "proxies.sock"):
            (data / left).unlink(missing_ok=True)
        self._start_etcd(binaries)
        self.start_apiserver()
        # Poll over one connection: opening another costs both sides more than the answer.
        cluster = self.cluster(patience=0, request_timeout=2)
        self._await("kube-apiserver", lambda: _is_serving(cluster))
        cluster = self.cluster()
        self._release_nodes(cluster)
        self._start_rest(binaries)
        self._make_nodes(cluster)
        self._await("companion", (data / "companion.ready").exists)
        self._await("kwok", lambda: self._nodes_are_ready(cluster))

    @property
    def egress(self) -> Path:
        """The socket of the proxy through which the API server reaches pods and Services."""
        return self.data / "egress.sock"

    @property
    def _programs_kubeconfig(self) -> Path:
        """The kubeconfig of the sandbox's own programs, with a token."""
        return self.data / "programs.kubeconfig"

    def _embedded(self, name: str) -> str:
        return base64.b64encode((self.data / "pki" / name).read_bytes()).decode()

    def _kubeconfig_of(self, user: str, credentials: dict[str, str]) -> str:
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": self.name,
            "clusters": [
                {
                    "name": self.name,
                    "cluster": {
                        "server": self.server,
                        "certificate-authority-data": self._embedded("ca.crt"),
                    },
                }
            ],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": user}}],
        }
        return json.dumps(content, indent=2)

    def _start_etcd(self, binaries: Binaries) -> None:
        self._spawn(
            "etcd",
            binaries.etcd,
            f"--data-dir={self.data}/etcd",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={ETCD_PEER}",
            f"--initial-advertise-peer-urls={ETCD_PEER}",
            f"--initial-cluster=default={ETCD_PEER}",
            "--unsafe-no-fsync",
            # A single member hears from no leader before it elects itself, so let it do so early.
            # Each heartbeat costs CPU, even in an idle sandbox.
            "--heartbeat-interval=100",
            "--election-timeout=500",
            "--log-level=warn",
        )

    def _start_rest(self, binaries: Binaries) -> None:
        data, keys = self.data, self.data / "pki"
        self._spawn(
            "kube-controller-manager",
            binaries.kube_controller_manager,
            f"--kubeconfig={self._programs_kubeconfig}",
            f"--service-account-private-key-file={keys}/service-account.key",
            f"--root-ca-file={keys}/ca.crt",
            f"--cluster-signing-cert-file={keys}/ca.crt",
            f"--cluster-signing-key-file={keys}/ca.key",
            "--controllers=*,-nodeipam,-cloud-node-lifecycle-controller",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--secure-port=0",
            "--kube-api-qps=400",
            "--kube-api-burst=800",
            # Deployments and ReplicaSets keep the default of five concurrent syncs: with 20, each
            # change causes its own write of a status, and most of these conflict.
            "--concurrent-serviceaccount-token-syncs=10",
        )
        self._spawn(
            "kube-scheduler",
            binaries.kube_scheduler,
            f"--kubeconfig={self._programs_kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--secure-port=0",
            "--kube-api-qps=400",
            "--kube-api-burst=800",
        )
        self._spawn(
            "kwok",
            binaries.kwok,
            f"--kubeconfig={self._programs_kubeconfig}",
            f"--config={','.join(map(str, self._stages()))}",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            f"--cidr={POD_CIDR}",
            "--node-ip=127.0.0.1",
            "--node-lease-duration-seconds=40",
        )
        self._spawn(
            "companion",
            binaries.companion,
            # With a certificate: a CertificateRequest must have its requester's extra fields, which
            # the user of a static token does not have.
            f"--kubeconfig={self.certificate_kubeconfig}",
            f"--egress-socket={self.egress}",
            f"--proxies-socket={data}/proxies.sock",
            f"--ready-file={data}/companion.ready",
        )

    def _stages(self) -> list[Path]:
        """The files that configure how simulated nodes behave."""
        if self._saved is None:
            return [STAGES]
        restored = self.data / RESTORED_STAGES.name
        restored.write_text(
            RESTORED_STAGES.read_text().replace("RESTORED_AT", datetime.now(UTC).isoformat())
        )
        return [STAGES, restored]

    def _release_nodes(self, cluster: Cluster) -> None:
        """Deletes the Leases with which an earlier kwok holds the nodes.

        A new kwok would wait until they expire, which would delay the readiness of pods.
        """
        cluster.request("DELETE", NODE_LEASES)

    def _make_nodes(self, cluster: Cluster) -> None:
        for number in range(1, self.nodes + 1):
            name = f"node-{number}"
            # Each node has its own range, as kube-controller-manager's nodeipam would assign.
            pod_cidr = f"10.{127 + number}.0.0/16"
            cluster.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {
                        "name": name,
                        "annotations": {"kwok.x-k8s.io/node": "fake"},
                        "labels": {
                            "kubernetes.io/hostname": name,
                            "kubernetes.io/os": "linux",
                            "kubernetes.io/arch": "amd64",
                            "topology.kubernetes.io/zone": f"zone-{number % 3}",
                        },
                    },
                    "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
                }
            )

    def _nodes_are_ready(self, cluster: Cluster) -> bool:
        nodes = list(cluster.list("v1", "Node"))
        ready = [
            node
            for node in nodes
            for condition in node.get("status", {}).get("conditions", [])
            if condition["type"] == "Ready" and condition["status"] == "True"
            # The scheduler avoids a node until the controller manager has removed its taint.
            if not node["spec"].get("taints")
        ]
        accounts = cluster.get("v1", "ServiceAccount", "default", "default")
        return len(ready) == self.nodes and accounts is not None

    # Processes

    def _spawn(self, name: str, program: Path, *arguments: str) -> None:
        with (self.data / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data,
                env={"GOGC": GARBAGE} | os.environ,
                # Only we receive the terminal's SIGINT, and then stop the others in order.
                start_new_session=True,
                preexec_fn=None if self._detached else _die_with_parent,
            )
        self._processes[name] = process
        self._pids[name] = process.pid
        if self._detached:
            self._write_state()

    def _await(self, name: str, is_ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not is_ready():
            for part in self._pids:
                if not self._runs(part):
                    raise SandboxError(f"sandbox {self.name}: {part} ended: {self._tail(part)}")
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"sandbox {self.name}: {name} was not ready after {START_TIMEOUT:.0f} s: "
                    f"{self._tail(name)}"
                )
            time.sleep(0.05)

    def _tail(self, name: str) -> str:
        return (self.data / f"{name}.log").read_text(errors="replace")[-1500:]

    def _runs(self, name: str) -> bool:
        if (process := self._processes.get(name)) is not None:
            return process.poll() is None
        return _is_process_of(self._pids[name], self.data)

    def _signal(self, name: str, number: signal.Signals) -> None:
        if self._runs(name):
            os.kill(self._pids[name], number)

    def _write_state(self) -> None:
        state = {"pids": self._pids, "ports": self._ports, "nodes": self.nodes}
        partial = self.data / "sandbox.json.partial"
        partial.write_text(json.dumps(state))
        partial.replace(self.data / "sandbox.json")

    def _read_state(self) -> None:
        try:
            state = json.loads((self.data / "sandbox.json").read_text())
        except (OSError, ValueError):
            return
        self._pids, self._ports, self.nodes = state["pids"], state["ports"], state["nodes"]


def _is_serving(cluster: Cluster) -> bool:
    try:
        cluster.request("GET", "/readyz")
    except ApiError:
        return False
    return True


def copy_sparse(source: str, target: str) -> str:
    """Copies a file with its mode, leaving holes for zeros: most of etcd's log is preallocated."""
    with Path(source).open("rb") as read, Path(target).open("wb") as written:
        while block := read.read(1 << 20):
            if block.count(0) == len(block):
                written.seek(len(block), os.SEEK_CUR)
            else:
                written.write(block)
        written.truncate()
    shutil.copymode(source, target)
    return target


def _is_process_of(pid: int, data: Path) -> bool:
    """Whether a process is running and was started by a sandbox with this data folder."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        # Without /proc only the pid can be checked.
        return sys.platform != "linux"
    return str(data).encode() in arguments


def _is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has stopped every thread of a process."""
    try:
        # The state follows the program's name, which is in parentheses.
        tasks = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        # A thread ended in the meantime.
        return False
    if tasks:
        return all(task.rpartition(")")[2].split()[0] == "T" for task in tasks)
    # No /proc on this system.
    asked = ["ps", "-o", "state=", "-p", str(pid)]
    return subprocess.run(asked, capture_output=True, check=False).stdout.startswith(b"T")


def _die_with_parent() -> None:
    """Makes Linux kill the child when the thread that started it ends, even if by SIGKILL."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
