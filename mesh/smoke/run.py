"""One run of a smoke test on a cluster: what it makes, keeps alive, measures and takes away again.

Everything that a run makes is owned by one object, its *fuse*: a Job of no pods that is complete
at once and that Kubernetes deletes some time after, with all that it owns. While the run lives it
keeps the fuse from burning down. So a run that is killed leaves nothing behind for longer than
`FUSE_SECONDS`, even if nothing of ours ever runs again; and the next run, which sees that nobody
tends the fuse, need not wait for that.
Sources: https://kubernetes.io/docs/concepts/workloads/controllers/ttlafterfinished/ and
https://kubernetes.io/docs/concepts/architecture/garbage-collection/#owners-dependents
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from mesh.cluster import Cluster, Object, name_of
from mesh.config import MeshConfig
from mesh.errors import ApiError, InvalidInput, MeshError, NotReady
from mesh.ingress import API_VERSIONS as TRAEFIK_API_VERSIONS
from mesh.injection import proxy_of
from mesh.namespaces import LABELS
from mesh.rollout import OnProgress, await_rollouts, describe, pod_reason
from mesh.smoke.options import Promise, SmokeOptions
from mesh.smoke.report import Measurement, Step
from mesh.smoke.routing import SPLIT_KINDS, SplitApi, refusal, split
from mesh.smoke.traffic import Traffic, read_traffic
from mesh.smoke.workloads import Backend, backend, client, client_seconds, program, service

RUN_LABEL = "smoke.prefect-linkerd/run"
PROMISE_LABEL = "smoke.prefect-linkerd/promise"
ROLE_LABEL = "smoke.prefect-linkerd/role"
FUSE_LABEL = "smoke.prefect-linkerd/fuse"

FUSE_SECONDS = 120
TEND_EVERY_SECONDS = 5.0
SILENT_AFTER_SECONDS = 30
"""A fuse that nobody tended for this long is a dead run's."""

ACCEPTED_WITHIN_SECONDS = 60
REMOVED_WITHIN_SECONDS = 120

NO_PODS = "pods do not run here"

_TRAEFIK_KINDS = tuple(
    (api_version, kind)
    for api_version in TRAEFIK_API_VERSIONS
    for kind in ("IngressRoute", "Middleware")
)
# What leads traffic: it goes first, so that an injected fault ends at once.
_LEADING = (*SPLIT_KINDS, *_TRAEFIK_KINDS)
_KINDS = (
    *_LEADING,
    ("batch/v1", "Job"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "Pod"),
)


OnStep = Callable[[Step], None]


def ignore_step(_step: Step) -> None:
    """For callers who read the steps at the end."""


def ignore_progress(_ready: int, _wanted: int, _text: str) -> None:
    """For callers who do not show it."""


class PromiseNotKept(Exception):
    """A step failed and is recorded; what follows it makes no sense."""


def fuse(name: str, namespace: str) -> Object:
    """A Job that never makes a pod, is complete at once and is deleted after `FUSE_SECONDS`."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "none", "image": "none"}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": {FUSE_LABEL: "true"}},
        "spec": {
            "completions": 0,
            "parallelism": 0,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": FUSE_SECONDS,
            "template": {"spec": pod},
        },
    }


def last_tended(job: Object) -> datetime:
    """When somebody last kept a fuse from burning down, by the cluster's clock."""
    completed = job.get("status", {}).get("completionTime")
    if completed is None:
        return datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    left: int = job["spec"].get("ttlSecondsAfterFinished", FUSE_SECONDS) - FUSE_SECONDS
    moment = datetime.fromisoformat(completed).timestamp() + left
    return datetime.fromtimestamp(moment, datetime.fromisoformat(completed).tzinfo)


def runs_pods(nodes: Sequence[Object]) -> bool:
    """Whether some node has a kubelet that runs containers.

    A kubelet names its container runtime as `type://version`; simulated nodes have none, and
    kwok's carry its annotation.
    """
    return any(
        "://" in str(node.get("status", {}).get("nodeInfo", {}).get("containerRuntimeVersion", ""))
        and "kwok.x-k8s.io/node" not in node["metadata"].get("annotations", {})
        and not node["spec"].get("unschedulable")
        for node in nodes
    )


def clear_leftovers(cluster: Cluster, namespace: str) -> list[str]:
    """Removes what dead runs left in a namespace; waits for as long as it takes to be sure.

    A run that lives, here or elsewhere, is left alone.

    Returns:
        The ids of the runs that were removed.

    Raises:
        NotReady: something of them does not go.
    """
    began = cluster.clock()
    removed: list[str] = []
    while True:
        # First what is owned, then the owners: an owner is always the older.
        there = _runs(cluster, namespace)
        jobs = list(cluster.list("batch/v1", "Job", namespace, labels=FUSE_LABEL))
        tended = {str(job["metadata"]["labels"][RUN_LABEL]): last_tended(job) for job in jobs}
        now = cluster.clock()
        silent = {
            run
            for run, moment in tended.items()
            if (now - moment).total_seconds() > SILENT_AFTER_SECONDS
        }
        for run in sorted(silent | (there - set(tended))):
            remove(cluster, namespace, run)
            removed.append(run)
        # Who tended the fuse after we began is alive.
        if all(moment > began for run, moment in tended.items() if run not in silent):
            return removed
        time.sleep(1)


def _runs(cluster: Cluster, namespace: str) -> set[str]:
    """The runs that something is left of, whether their fuse is there or not."""
    return {
        str(obj["metadata"]["labels"][RUN_LABEL])
        for api_version, kind in _served(cluster, _KINDS)
        for obj in cluster.list(api_version, kind, namespace, labels=RUN_LABEL)
    }


def _served(cluster: Cluster, kinds: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The kinds that are served, each in one version."""
    groups: dict[tuple[str, str], tuple[str, str]] = {}
    for api_version, kind in kinds:
        key = (api_version.rpartition("/")[0], kind)
        if key not in groups and cluster.serves(api_version, kind):
            groups[key] = (api_version, kind)
    return list(groups.values())


def remove(cluster: Cluster, namespace: str, run: str) -> None:
    """Takes away everything of a run, and waits until it is gone.

    Raises:
        NotReady: naming what does not go.
    """
    labels = f"{RUN_LABEL}={run}"
    for api_version, kind in _served(cluster, _LEADING):
        for obj in cluster.list(api_version, kind, namespace, labels=labels):
            cluster.delete(api_version, kind, obj["metadata"]["name"], namespace)
    cluster.delete("batch/v1", "Job", _fuse_name(run), namespace)
    kinds = _served(cluster, _KINDS)
    deadline = time.monotonic() + REMOVED_WITHIN_SECONDS
    while left := [
        name_of(obj)
        for api_version, kind in kinds
        for obj in cluster.list(api_version, kind, namespace, labels=labels)
    ]:
        if time.monotonic() > deadline:
            raise NotReady(
                left[0],
                expected=f"to be gone within {REMOVED_WITHIN_SECONDS} s, with its owner",
                found=", ".join(left[:10]),
                remedy="Look for finalizers, and whether the garbage collector runs; "
                f"delete by label {labels}.",
            )
        time.sleep(0.3)


def _fuse_name(run: str) -> str:
    return f"smoke-{run}"


class SmokeRun:
    """The objects of one smoke test, from the first to the last; a context manager.

    Args:
        on_step: called with each step as it ends.
        on_progress: called while workloads come up.

    Raises:
        InvalidInput: the namespace does not exist.
        NotReady: something that the run made does not go.
    """

    def __init__(
        self,
        cluster: Cluster,
        config: MeshConfig,
        options: SmokeOptions,
        promise: Promise,
        *,
        on_step: OnStep = ignore_step,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        self.cluster, self.config, self.options = cluster, config, options
        self.promise: Promise = promise
        self.id = secrets.token_hex(4)
        self.namespace: str = options.namespace or config.namespaces.emojivoto
        self.steps: list[Step] = []
        self.objects: list[str] = []
        self.measurements: list[Measurement] = []
        self.remedy = ""
        self._on_step, self._on_progress = on_step, on_progress
        self._uid = ""
        self._is_lost = False
        self._is_over = threading.Event()
        self._tender = threading.Thread(target=self._tend, daemon=True)
        self._runs_pods = True

    def name(self, role: str) -> str:
        """The name of an object of this run: a stranger's never begins like it."""
        return f"{_fuse_name(self.id)}-{role}"

    # Life and end

    def __enter__(self) -> Self:
        if self.cluster.get("v1", "Namespace", self.namespace) is None:
            raise InvalidInput(
                f"Namespace/{self.namespace}",
                expected="it to exist: the tests' own pods run beside what is there",
                found="nothing",
                remedy="Let bootstrap deploy emojivoto (smoke_test), or name another namespace "
                "in the options.",
            )
        self._runs_pods = runs_pods(list(self.cluster.list("v1", "Node")))
        owner = fuse(_fuse_name(self.id), self.namespace)
        self._uid = str(self.cluster.apply(self._labelled(owner))["metadata"]["uid"])
        self._tender.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._tender.join()
        remove(self.cluster, self.namespace, self.id)

    def _tend(self) -> None:
        """Keeps the fuse from burning down for as long as this process lives."""
        while not self._is_over.wait(TEND_EVERY_SECONDS):
            # The next time does as well, and a fuse that is gone is seen by the next step.
            with contextlib.suppress(ApiError):
                self._extend()

    def _extend(self) -> None:
        job = self.cluster.get("batch/v1", "Job", _fuse_name(self.id), self.namespace)
        if job is None or job["metadata"]["uid"] != self._uid:
            self._is_lost = True
            return
        completed = job.get("status", {}).get("completionTime")
        if completed is None:
            return
        burning = (self.cluster.clock() - datetime.fromisoformat(completed)).total_seconds()
        patch = {"spec": {"ttlSecondsAfterFinished": int(burning) + FUSE_SECONDS}}
        self.cluster.merge("batch/v1", "Job", _fuse_name(self.id), self.namespace, patch)

    # Objects

    def _labelled(self, obj: Object) -> Object:
        labels = {**LABELS, RUN_LABEL: self.id, PROMISE_LABEL: self.promise}
        metadata = {**obj["metadata"], "labels": {**labels, **obj["metadata"].get("labels", {})}}
        obj = {**obj, "metadata": metadata}
        if (template := obj.get("spec", {}).get("template")) is not None:
            inner = template.get("metadata", {})
            inner = {**inner, "labels": {**labels, **inner.get("labels", {})}}
            obj["spec"] = {**obj["spec"], "template": {**template, "metadata": inner}}
        return obj

    def apply(self, obj: Object, *, dry_run: bool = False) -> Object:
        """Applies an object as one of this run's, owned by its fuse."""
        if self._is_lost:
            raise NotReady(
                f"Job/{self.namespace}/{_fuse_name(self.id)}",
                expected="the object that owns this test's own to be there",
                found="that it is gone: the API server was away for long, or somebody deleted it",
                remedy="Run the test again.",
            )
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": _fuse_name(self.id),
            "uid": self._uid,
        }
        obj = self._labelled(obj)
        obj["metadata"]["ownerReferences"] = [owner]
        applied = self.cluster.apply(obj, dry_run=dry_run)
        if not dry_run and (name := name_of(obj)) not in self.objects:
            self.objects.append(name)
        return applied

    def selector(self, role: str) -> dict[str, str]:
        return {RUN_LABEL: self.id, ROLE_LABEL: role}

    def deploy(self, *backends: Backend) -> None:
        """Backends, each behind a Service of its own, up and meshed."""
        with self.step("backends") as say:
            program_name = self.name("program")
            self.apply(program(program_name, self.namespace))
            for role in backends:
                self.front(role.name, role.name)
                self.apply(
                    backend(
                        self.name(role.name),
                        self.namespace,
                        self.config,
                        self.options,
                        role,
                        program_name=program_name,
                        selector=self.selector(role.name),
                    )
                )
            workloads = [("Deployment", self.namespace, self.name(r.name)) for r in backends]
            timeout = self.options.timeout_seconds
            await_rollouts(self.cluster, workloads, timeout, self._on_progress)
            pods = list(
                self.cluster.list("v1", "Pod", self.namespace, labels=f"{RUN_LABEL}={self.id}")
            )
            bare = [name_of(pod) for pod in pods if proxy_of(pod) is None]
            if bare:
                raise NotReady(
                    bare[0],
                    expected="a container linkerd-proxy, as linkerd.io/inject asks for",
                    found=f"none in {len(bare)} of {len(pods)} pods",
                    remedy="See whether the proxy injector runs and its webhook answers.",
                )
            say(f"{len(pods)} pods are up and meshed")

    def front(self, name: str, role: str) -> None:
        """A Service for the pods of a role."""
        self.apply(service(self.name(name), self.namespace, self.selector(role)))

    def url(self, name: str) -> str:
        """Where a Service of this run is asked."""
        return f"http://{self.host(name)}/"

    def host(self, name: str) -> str:
        return f"{self.name(name)}.{self.namespace}.svc.{self.config.cluster_domain}"

    def split(self, api: SplitApi, name: str, weights: Mapping[str, int]) -> None:
        """Splits the requests to one Service over others, and waits until Linkerd obeys."""
        text = ", ".join(f"{role} {weight}" for role, weight in weights.items())
        with self.step(f"split: {text}") as say:
            wanted = split(
                api,
                self.name(name),
                self.namespace,
                self.name(name),
                {self.name(role): weight for role, weight in weights.items()},
                self.config.cluster_domain,
            )
            self.apply(wanted)
            if self._runs_pods and api.has_status:
                self._await_acceptance(wanted)
            say(f"{name_of(wanted)} ({api.api_version})")

    def unsplit(self, api: SplitApi) -> None:
        """Takes every split of this run away again."""
        with self.step("split removed"):
            labels = f"{RUN_LABEL}={self.id}"
            for obj in self.cluster.list(api.api_version, api.kind, self.namespace, labels=labels):
                self.cluster.delete(
                    api.api_version, api.kind, obj["metadata"]["name"], self.namespace
                )

    def _await_acceptance(self, route: Object) -> None:
        deadline = time.monotonic() + ACCEPTED_WITHIN_SECONDS
        metadata = route["metadata"]
        while True:
            found = self.cluster.get(
                route["apiVersion"], route["kind"], metadata["name"], metadata["namespace"]
            )
            why = refusal(found or {})
            if why == "":
                return
            if why or time.monotonic() > deadline:
                raise NotReady(
                    name_of(route),
                    expected="Linkerd to accept it (condition Accepted)",
                    found=why or f"no such condition after {ACCEPTED_WITHIN_SECONDS} s",
                    remedy="Look at the policy container of linkerd-destination; it reads kinds "
                    "whose CRDs came after it only when it is restarted.",
                )
            time.sleep(0.5)

    # Measurements

    def measure(
        self,
        name: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        meshed: bool = True,
        is_backend: bool = True,
    ) -> Traffic | None:
        """The traffic of one client Job; None, and a skipped step, where pods do not run.

        Args:
            meshed: whether the client has a proxy.
            is_backend: whether a backend of this run answers; it is waited for then.
        """
        number = len(self.steps)
        job = client(
            self.name(f"client-{number}"),
            self.namespace,
            self.config,
            self.options,
            url,
            program_name=self.name("program"),
            headers=headers or {},
            meshed=meshed,
            **({} if is_backend else {"warm_up": 0}),
        )
        if not self._runs_pods:
            # The API server's word on it can be had all the same.
            with self.step(f"client: {name}") as say:
                self.apply(job, dry_run=True)
                say("accepted as a dry run")
            self.record_skip(f"traffic: {name}", NO_PODS)
            return None
        with self.step(f"traffic: {name}") as say:
            time.sleep(self.options.settle_seconds)
            self.apply(job)
            try:
                traffic = self._await_result(job)
            finally:
                # Its proxy would outlive it.
                self.cluster.delete("batch/v1", "Job", job["metadata"]["name"], self.namespace)
            self.measurements.append(Measurement(name, traffic))
            say(f"{traffic.ok} of {traffic.sent} requests succeeded in {traffic.seconds:.1f} s")
        return traffic

    def _await_result(self, job: Object) -> Traffic:
        name: str = job["metadata"]["name"]
        deadline = time.monotonic() + client_seconds(self.options) + 15
        while True:
            pods = list(self.cluster.list("v1", "Pod", self.namespace, labels=f"job-name={name}"))
            for pod in pods:
                ended = _ended(pod)
                if ended is None:
                    continue
                if ended.get("exitCode") != 0:
                    raise self._no_result(job, str(ended.get("message") or ended.get("reason")))
                try:
                    return read_traffic(str(ended.get("message", "")))
                except ValueError:
                    raise self._no_result(job, "no result in the pod's status") from None
            found = self.cluster.get("batch/v1", "Job", name, self.namespace)
            failed = found is None or any(
                condition["type"] == "Failed" and condition["status"] == "True"
                for condition in found.get("status", {}).get("conditions", [])
            )
            if failed or time.monotonic() > deadline:
                reasons = [pod_reason(pod) for pod in pods]
                if found is not None and not reasons:
                    reasons = [describe(self.cluster, found)]
                raise self._no_result(job, "; ".join(reasons) or "the Job is gone")
            time.sleep(0.5)

    def _no_result(self, job: Object, found: str) -> NotReady:
        return NotReady(
            name_of(job),
            expected="the client's result, as the termination message of its container",
            found=found[-500:],
            remedy=f"See that nodes can pull {self.options.image} and that it has python3, "
            "or name another image in the options.",
        )

    # Steps

    def record(self, step: Step) -> None:
        self.steps.append(step)
        self._on_step(step)

    def record_skip(self, name: str, reason: str) -> None:
        self.record(Step(name, "skipped", reason))

    @contextmanager
    def step(self, name: str) -> Generator[Callable[[str], None]]:
        """A step that fails by a `MeshError` in it; call what it yields to say something of it.

        A passing fault of the API server is not the mesh's: it ends the run and may be retried.
        """
        said: list[str] = []
        try:
            yield said.append
        except MeshError as error:
            if isinstance(error, ApiError) and error.transient:
                raise
            self.remedy = error.remedy
            self.record(Step(name, "failed", str(error)))
            raise PromiseNotKept from error
        self.record(Step(name, "passed", "; ".join(said)))

    def judge(self, name: str, problems: Sequence[str], remedy: str, detail: str = "") -> None:
        """Records whether measured traffic is as promised; ends the run where it is not."""
        if problems:
            self.remedy = remedy
        self.record(Step(name, "failed" if problems else "passed", "; ".join(problems) or detail))
        if problems:
            raise PromiseNotKept


def _ended(pod: Object) -> dict[str, Any] | None:
    for container in pod.get("status", {}).get("containerStatuses", []):
        if container["name"] == "client":
            return container.get("state", {}).get("terminated")
    return None
