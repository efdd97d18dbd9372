"""One run of a smoke test on a cluster: makes its objects, measures traffic and records steps."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from prefect_linkerd.mesh.errors import ApiError, InvalidInput, MeshError, NotReady
from prefect_linkerd.mesh.install.ingress import API_VERSIONS as TRAEFIK_API_VERSIONS
from prefect_linkerd.mesh.install.injection import require_proxies
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Object, name_of
from prefect_linkerd.mesh.kubernetes.nodes import runs_pods
from prefect_linkerd.mesh.kubernetes.objects import Gvk, Workload, is_true
from prefect_linkerd.mesh.kubernetes.rollout import OnProgress, await_rollouts, describe, pod_reason
from prefect_linkerd.mesh.kubernetes.waiting import polls
from prefect_linkerd.mesh.linkerd.facts import SPLIT_KINDS
from prefect_linkerd.mesh.load.fuse import Family, Fuse
from prefect_linkerd.mesh.load.program import Traffic, read_traffic
from prefect_linkerd.mesh.load.workloads import labelled, program, service
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.smoke.options import SmokeOptions, SmokeTest
from prefect_linkerd.mesh.smoke.report import Measurement, Step
from prefect_linkerd.mesh.smoke.routing import SplitApi, refusal, split
from prefect_linkerd.mesh.smoke.workloads import Backend, backend, client, client_seconds

SMOKE = Family(
    "smoke",
    leading=(
        *(Gvk(*kind) for kind in SPLIT_KINDS),
        *(
            Gvk(api_version, kind)
            for api_version in TRAEFIK_API_VERSIONS
            for kind in ("IngressRoute", "Middleware")
        ),
    ),
)
"""The family of all smoke test runs."""

RUN_LABEL = SMOKE.run_label
TEST_LABEL = "smoke.prefect-linkerd/test"
ROLE_LABEL = "smoke.prefect-linkerd/role"

ACCEPTED_WITHIN_SECONDS = 60

NO_PODS = "pods do not run here"

OnStep = Callable[[Step], None]


def ignore_step(_step: Step) -> None:
    """For callers that read the steps at the end."""


def ignore_progress(_ready: int, _wanted: int, _text: str) -> None:
    """For callers that do not show progress."""


class StepFailed(Exception):
    """A step failed and was recorded; the steps after it make no sense."""


class SmokeRun:
    """One smoke test, as a context manager that removes everything that the test made.

    Args:
        on_step: called with each step as it ends.
        on_progress: called while workloads come up.

    Raises:
        InvalidInput: the namespace does not exist.
        NotReady: something that the run made is not deleted in time.
    """

    def __init__(
        self,
        mesh: Mesh,
        options: SmokeOptions,
        test: SmokeTest,
        *,
        on_step: OnStep = ignore_step,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        self.cluster, self.config, self.options = mesh.cluster, mesh.config, options
        self.test: SmokeTest = test
        self.id = secrets.token_hex(4)
        self.namespace: str = options.namespace or mesh.config.namespaces.emojivoto
        self.steps: list[Step] = []
        self.objects: list[str] = []
        self.measurements: list[Measurement] = []
        self.remedy = ""
        self._on_step, self._on_progress = on_step, on_progress
        self._labels = {**MADE_HERE, RUN_LABEL: self.id, TEST_LABEL: test}
        self._fuse = Fuse(mesh.cluster, SMOKE, self.id, self.namespace, self._labels)
        self._runs_pods = True

    def name(self, role: str) -> str:
        """The name of an object of this run, with a prefix that no other object has."""
        return f"{SMOKE.fuse_name(self.id)}-{role}"

    # Start and end

    def __enter__(self) -> Self:
        if self.cluster.get("v1", "Namespace", self.namespace) is None:
            raise InvalidInput(
                f"Namespace/{self.namespace}",
                expected="it to exist, because the tests' own pods run in it",
                found="nothing",
                remedy="Let bootstrap deploy emojivoto (emojivoto.enabled), or name another "
                "namespace in the options.",
            )
        self._runs_pods = runs_pods(list(self.cluster.list("v1", "Node")))
        self._fuse.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._fuse.__exit__(kind, error, trace)

    # Objects

    def apply(self, obj: Object, *, dry_run: bool = False) -> Object:
        """Applies an object with this run's labels, owned by its fuse."""
        obj = labelled(obj, self._labels)
        obj["metadata"]["ownerReferences"] = [self._fuse.reference()]
        applied = self.cluster.apply(obj, dry_run=dry_run)
        if not dry_run and (name := name_of(obj)) not in self.objects:
            self.objects.append(name)
        return applied

    def selector(self, role: str) -> dict[str, str]:
        return {RUN_LABEL: self.id, ROLE_LABEL: role}

    def deploy(self, *backends: Backend) -> None:
        """Deploys backends, each behind its own Service, and waits until they are up and meshed."""
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
            workloads = [
                Workload("Deployment", self.namespace, self.name(r.name)) for r in backends
            ]
            timeout = self.options.timeout_seconds
            await_rollouts(self.cluster, workloads, timeout, self._on_progress)
            pods = list(
                self.cluster.list("v1", "Pod", self.namespace, labels=f"{RUN_LABEL}={self.id}")
            )
            require_proxies(
                pods, remedy="Check that the proxy injector runs and its webhook answers."
            )
            say(f"{len(pods)} pods are up and meshed")

    def front(self, name: str, role: str) -> None:
        """Creates a Service for the pods of a role."""
        self.apply(service(self.name(name), self.namespace, self.selector(role)))

    def url(self, name: str) -> str:
        """The URL of a Service of this run."""
        return f"http://{self.host(name)}/"

    def host(self, name: str) -> str:
        return f"{self.name(name)}.{self.namespace}.svc.{self.config.cluster_domain}"

    def split(self, api: SplitApi, name: str, weights: Mapping[str, int]) -> None:
        """Splits the requests to one Service over others, and waits until Linkerd accepts it."""
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
        """Deletes every split of this run."""
        with self.step("split removed"):
            labels = f"{RUN_LABEL}={self.id}"
            for obj in self.cluster.list(api.api_version, api.kind, self.namespace, labels=labels):
                self.cluster.delete(
                    api.api_version, api.kind, obj["metadata"]["name"], self.namespace
                )

    def _await_acceptance(self, route: Object) -> None:
        metadata = route["metadata"]
        for is_last in polls(ACCEPTED_WITHIN_SECONDS, every=0.5):
            found = self.cluster.get(
                route["apiVersion"], route["kind"], metadata["name"], metadata["namespace"]
            )
            why = refusal(found or {})
            if why == "":
                return
            if why or is_last:
                raise NotReady(
                    name_of(route),
                    expected="Linkerd to accept it (condition Accepted)",
                    found=why or f"no such condition after {ACCEPTED_WITHIN_SECONDS} s",
                    remedy="Look at the policy container of linkerd-destination; restart it if the "
                    "kind's CRD was installed after it started.",
                )

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
        """Measures the traffic of one client Job; None, with a skipped step, if pods do not run.

        Args:
            meshed: whether the client has a proxy.
            is_backend: whether a backend of this run answers; the client then waits for it.
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
            # The API server can validate the Job even so.
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
                # The Job's proxy would outlive the client.
                self.cluster.delete("batch/v1", "Job", job["metadata"]["name"], self.namespace)
            self.measurements.append(Measurement(name, traffic))
            say(f"{traffic.ok} of {traffic.sent} requests succeeded in {traffic.seconds:.1f} s")
        return traffic

    def _await_result(self, job: Object) -> Traffic:
        name: str = job["metadata"]["name"]
        for is_last in polls(client_seconds(self.options) + 15, every=0.5):
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
            failed = found is None or is_true(found, "Failed")
            if failed or is_last:
                reasons = [pod_reason(pod) for pod in pods]
                if found is not None and not reasons:
                    reasons = [describe(self.cluster, found)]
                raise self._no_result(job, "; ".join(reasons) or "the Job is gone")
        raise AssertionError("unreachable")

    def _no_result(self, job: Object, found: str) -> NotReady:
        return NotReady(
            name_of(job),
            expected="the client's result, as the termination message of its container",
            found=found[-500:],
            remedy=f"Check that nodes can pull {self.options.image} and that it has python3, "
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
        """Records a step, as failed on a `MeshError` in it; call what it yields to add details.

        A transient fault of the API server is not the mesh's: it ends the run and may be retried.
        """
        said: list[str] = []
        try:
            yield said.append
        except MeshError as error:
            if isinstance(error, ApiError) and error.transient:
                raise
            self.remedy = error.remedy
            self.record(Step(name, "failed", str(error)))
            raise StepFailed from error
        self.record(Step(name, "passed", "; ".join(said)))

    def judge(self, name: str, problems: Sequence[str], remedy: str, detail: str = "") -> None:
        """Records a step for measured traffic; ends the run if there are problems."""
        if problems:
            self.remedy = remedy
        self.record(Step(name, "failed" if problems else "passed", "; ".join(problems) or detail))
        if problems:
            raise StepFailed


def _ended(pod: Object) -> Object | None:
    for container in pod.get("status", {}).get("containerStatuses", []):
        if container["name"] == "client":
            return container.get("state", {}).get("terminated")
    return None
