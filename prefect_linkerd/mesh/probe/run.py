"""One probe on a cluster: makes its objects, collects its clients' counts, and removes it all."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from urllib.parse import urlencode

from prefect_linkerd.mesh.errors import (
    ApiError,
    InvalidInput,
    MeshError,
    NotReady,
    PreflightFailed,
    RequestsFailed,
)
from prefect_linkerd.mesh.helm.own_objects import (
    OwnObject,
    always,
    conflict,
    ensure_own,
    find,
    foreign,
)
from prefect_linkerd.mesh.install.injection import require_proxies
from prefect_linkerd.mesh.install.registry import pull_secret
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Object, name_of
from prefect_linkerd.mesh.kubernetes.nodes import runs_pods
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.permissions import GRANT, denied, in_words
from prefect_linkerd.mesh.kubernetes.rollout import OnProgress, await_rollouts
from prefect_linkerd.mesh.kubernetes.waiting import poll, polls
from prefect_linkerd.mesh.load.fuse import Fuse, clear_leftovers
from prefect_linkerd.mesh.load.program import PROXIES
from prefect_linkerd.mesh.load.workloads import labelled, program, service
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.probe.counts import (
    SETTLED,
    SHOWN,
    Count,
    Ledger,
    ProbeOutcome,
    ProberReport,
    answers_lacking,
    failing,
    parse_report,
    read_lines,
    since,
    too_many,
    total,
    unsettled,
)
from prefect_linkerd.mesh.probe.generations import BEFORE, Generation, Generations
from prefect_linkerd.mesh.probe.options import ProbeOptions
from prefect_linkerd.mesh.probe.workloads import (
    GENERATION_LABEL,
    MADE_LABEL,
    PROBE,
    RESULTS_PORT,
    generation,
    namespace,
    probe_permissions,
)
from prefect_linkerd.mesh.snapshot.mesh import Pod

SIMULATED = "no node runs containers"
TURN_OFF = "or turn the probe off (probe.enabled)"

HEARD_WITHIN_SECONDS = 30
"""How long a generation may be unreachable: a pod may be moving to another node."""

SILENCE_SECONDS = 5
"""How long failures may go unnoticed while a generation settles."""

SETTLED_WITHIN_SECONDS = 15
"""How long a generation may take to settle beyond its warm-up and the time of its requests."""

GONE_WITHIN_SECONDS = 120
READERS = 8

MAX_EMPTY_READS = 2
"""How often in a row the probe's pods reach no proxy before they stop reading proxies."""

# A namespace that a run has created is deleted only if it contains none of these, and no ConfigMap
# but the one that every namespace has.
_OTHERS = (
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "Secret"),
    ("v1", "PersistentVolumeClaim"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("batch/v1", "Job"),
    ("batch/v1", "CronJob"),
)
_IN_EVERY_NAMESPACE = "kube-root-ca.crt"

Say = Callable[[str], None]


class Probe:
    """The probe as seen by a flow that changes a mesh. This one is off, and sends no requests.

    Args:
        absent: why it is off.
    """

    asks = False

    def __init__(self, absent: str = "there was no probe") -> None:
        self._absent = absent

    @property
    def outcome(self) -> ProbeOutcome:
        """What was counted so far."""
        return ProbeOutcome(absent=self._absent)

    def is_own(self, pod: Pod) -> bool:  # noqa: ARG002
        """Whether a pod is the probe's: only the probe may restart it."""
        return False

    def is_newest(self, pod: Pod) -> bool:  # noqa: ARG002
        """Whether a pod is of the newest generation."""
        return False

    def arrive(self, phase: str) -> None:
        """Starts a phase's generation beside the others; all of them send each other requests.

        Raises:
            NotReady: its pods do not come up, or none of its clients can be reached.
            RequestsFailed: see `check`.
        """

    def check(self, where: str) -> None:
        """Counts the requests since the last time.

        Raises:
            RequestsFailed: more failed than allowed; names the pairs and the reasons.
            NotReady: no client of a generation can be reached.
        """

    def leave(self, phase: str) -> None:
        """Ends every generation but the newest, once they get no more requests.

        Raises:
            NotReady: their pods are not deleted in time.
            RequestsFailed: see `check`.
        """

    def conclude(self, phase: str) -> str:  # noqa: ARG002
        """Checks, and returns in words what was counted in a phase; empty if the probe is off."""
        return ""

    def only_count(self) -> None:
        """From now on only counts failures, without stopping: the mesh is being rolled back."""

    def census(
        self,
        pods: Sequence[Pod],  # noqa: ARG002
        names: Sequence[str],  # noqa: ARG002
        seconds: float,  # noqa: ARG002
    ) -> Mapping[str, str]:
        """What the probe's pods read from other proxies; see `Census`."""
        return {}

    def end(self) -> None:
        """Removes everything."""


class AskingProbe(Probe):
    """A probe that sends requests. `start` begins it, `end` removes everything that it made.

    Args:
        say: called with what was counted, batch by batch, and with anything that goes wrong.
        on_progress: called while a generation comes up.
    """

    asks = True

    def __init__(
        self,
        mesh: Mesh,
        options: ProbeOptions,
        *,
        say: Say,
        on_progress: OnProgress,
    ) -> None:
        super().__init__()
        self._mesh, self._options = mesh, options
        self._say, self._on_progress = say, on_progress
        self._id = secrets.token_hex(4)
        self._place: str = options.namespace or namespace()["metadata"]["name"]
        self._labels = {**MADE_HERE, PROBE.run_label: self._id}
        self._fuse = Fuse(mesh.cluster, PROBE, self._id, self._place, self._labels)
        self._is_lit = False
        self._generations = Generations()
        self._ledger = Ledger()
        self._checked = self._concluded = self._ledger
        self._where: str = ""
        self._judges = True
        self._heard: list[Object] = []
        self._in_vain = 0

    # Start and end

    def start(self) -> None:
        """Brings up the first generation, whose pods then send each other requests.

        Raises:
            InvalidInput: the namespace in the options does not exist.
            OwnershipConflict: the probe's own namespace belongs to somebody else.
            PreflightFailed: this identity lacks a permission.
            NotReady, RequestsFailed: see `arrive`.
        """
        try:
            self._ensure_place()
            for run in clear_leftovers(self._mesh.cluster, PROBE, self._place):
                self._say(f"Removed what probe {run} left behind: its run died")
            self._fuse.__enter__()
            self._is_lit = True
            self._ensure_pull_secret()
            self._own(program(self._name("program"), self._place))
            self.arrive(BEFORE)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Removes everything. If that fails, says so: the rest is deleted with the fuse."""
        try:
            if self._is_lit:
                self._is_lit = False
                with suppress(MeshError):
                    # Pods that send no requests exit at once.
                    self._read(self._pods(self._generations.living), ())
                self._fuse.__exit__(None, None, None)
            self._remove_place()
        except MeshError as error:
            self._say(f"The probe is not completely removed yet: {error}")

    @property
    def outcome(self) -> ProbeOutcome:
        return ProbeOutcome(self._ledger.pairs)

    def only_count(self) -> None:
        self._judges = False

    @contextmanager
    def _tolerant(self) -> Generator[None]:
        """If the probe only counts, logs its own errors instead of raising them."""
        try:
            yield
        except MeshError as error:
            if self._judges:
                raise
            self._say(f"Probe: {error}")

    # The namespace

    def _ensure_place(self) -> None:
        if self._options.namespace is not None:
            self._require(creates=False)
            if self._mesh.cluster.get("v1", "Namespace", self._place) is None:
                raise InvalidInput(
                    f"Namespace/{self._place}",
                    expected="it to exist, because probe.namespace names it",
                    found="nothing",
                    remedy="Create it, or leave probe.namespace empty.",
                )
            return
        wanted = namespace()
        found = self._await_place(find(self._mesh.cluster, wanted))
        remedy = f"Name another namespace (probe.namespace), {TURN_OFF}."
        if (theirs := foreign(OwnObject(wanted, always(remedy)), found)) is not None:
            raise conflict(theirs)
        self._require(creates=found is None)
        if found is None:
            wanted["metadata"]["labels"][MADE_LABEL] = "true"
            self._mesh.cluster.apply(wanted)

    def _await_place(self, found: Object | None) -> Object | None:
        """The namespace, once it is no longer terminating: an earlier run may have deleted it."""

        def is_usable(found: Object | None) -> bool:
            return found is None or not found["metadata"].get("deletionTimestamp")

        if not is_usable(found):
            found = poll(
                lambda: self._mesh.cluster.get("v1", "Namespace", self._place),
                is_usable,
                GONE_WITHIN_SECONDS,
                every=1.0,
            )
        if found is not None and not is_usable(found):
            raise NotReady(
                name_of(found),
                expected=f"to be gone within {GONE_WITHIN_SECONDS} s",
                found="that it is still being deleted",
                remedy=f"Look at its conditions; name another (probe.namespace), {TURN_OFF}.",
            )
        return found

    def _require(self, *, creates: bool) -> None:
        asked = probe_permissions(self._place, creates=creates, pulls=self._pulls)
        if lacking := denied(self._mesh.cluster, asked):
            raise PreflightFailed(
                "permissions of the probe",
                expected="all of them to be granted before anything changes",
                found=in_words(lacking),
                remedy=f"{GRANT[:-1]}, {TURN_OFF}. The mesh was not changed.",
            )

    @property
    def _pulls(self) -> bool:
        return pull_secret(self._mesh.config, self._place) is not None

    def _ensure_pull_secret(self) -> None:
        wanted = pull_secret(self._mesh.config, self._place)
        if wanted is not None and find(self._mesh.cluster, wanted) is None:
            wanted["metadata"]["ownerReferences"] = [self._fuse.reference()]
            self._mesh.cluster.apply(wanted)

    def _remove_place(self) -> None:
        """Deletes a namespace that a run has created, unless somebody put anything else in it."""
        if self._options.namespace is not None:
            return
        found = self._mesh.cluster.get("v1", "Namespace", self._place)
        if found is None or MADE_LABEL not in found["metadata"].get("labels", {}):
            return
        for api_version, kind in _OTHERS:
            if any(self._mesh.cluster.list(api_version, kind, self._place, metadata_only=True)):
                self._say(f"Namespace/{self._place} stays: there is a {kind} in it")
                return
        for obj in self._mesh.cluster.list("v1", "ConfigMap", self._place, metadata_only=True):
            if obj["metadata"]["name"] != _IN_EVERY_NAMESPACE:
                self._say(f"Namespace/{self._place} stays: {name_of(obj)} is in it")
                return
        self._mesh.cluster.delete("v1", "Namespace", self._place)

    # Generations

    def _name(self, part: str) -> str:
        return f"{PROBE.fuse_name(self._id)}-{part}"

    def _own(self, obj: Object) -> None:
        """Creates an object of this run, owned by its fuse."""
        obj = labelled(obj, self._labels)
        obj["metadata"]["ownerReferences"] = [self._fuse.reference()]
        remedy = "Run again: the next run uses other names."
        ensure_own(self._mesh.cluster, [OwnObject(obj, always(remedy))])

    def is_own(self, pod: Pod) -> bool:
        return pod.namespace == self._place and pod.labels.get(PROBE.run_label) == self._id

    def is_newest(self, pod: Pod) -> bool:
        newest = self._generations.newest
        return (
            self.is_own(pod)
            and newest is not None
            and pod.labels.get(GENERATION_LABEL) == newest.name
        )

    def arrive(self, phase: str) -> None:
        with self._tolerant():
            grown = self._generations.starting(phase)
            self._deploy(self._generations.next(phase), grown)
            self._generations = grown
            self._settle(phase)

    def _deploy(self, made: Generation, all_of_them: Generations) -> None:
        selector = {PROBE.run_label: self._id, GENERATION_LABEL: made.name}
        name = self._name(made.name)
        self._own(service(name, self._place, selector))
        host = f"{self._name('{}')}.{self._place}.svc.{self._mesh.config.cluster_domain}"
        self._own(
            generation(
                name,
                self._place,
                self._mesh.config,
                self._options,
                made.name,
                all_of_them.names,
                url=f"http://{host}/",
                program_name=self._name("program"),
                selector=selector,
            )
        )
        workload, timeout = Workload("Deployment", self._place, name), self._options.timeout_seconds
        try:
            await_rollouts(self._mesh.cluster, [workload], timeout, self._on_progress, every=0.5)
        except NotReady as error:
            raise NotReady(
                error.subject,
                expected=error.expected,
                found=error.found,
                remedy=f"{error.remedy} Name another image (probe.image), {TURN_OFF}.",
            ) from None
        require_proxies(
            self._pods([made]),
            remedy=f"Check that the proxy injector runs and its webhook answers, {TURN_OFF}.",
        )

    def leave(self, phase: str) -> None:
        where = f"{phase}, after its restarts"
        self.check(where)
        older, kept = self._generations.older, self._generations.ending_older()
        with self._tolerant():
            # They neither get nor send requests any more, so their end causes no failures.
            self._hear(kept, leaving=older)
            self._judge(where)
            self._remove(older)
            # Last, so that a retried step begins with the same generations.
            self._generations = kept

    def _remove(self, older: Iterable[Generation]) -> None:
        older = tuple(older)
        for each in older:
            name = self._name(each.name)
            self._mesh.cluster.delete("v1", "Service", name, self._place)
            self._mesh.cluster.delete("apps/v1", "Deployment", name, self._place)
        left = poll(
            lambda: self._pods(older), lambda found: not found, GONE_WITHIN_SECONDS, every=0.5
        )
        if left:
            raise NotReady(
                name_of(left[0]),
                expected=f"to be gone within {GONE_WITHIN_SECONDS} s, with its Deployment",
                found=f"{len(left)} of the probe's pods",
                remedy="Check that their nodes are ready and the garbage collector runs, then "
                f"run again, {TURN_OFF}.",
            )

    def _pods(self, generations: Iterable[Generation]) -> list[Object]:
        names = {each.name for each in generations}
        labels = f"{PROBE.run_label}={self._id}"
        return [
            pod
            for pod in self._mesh.cluster.list("v1", "Pod", self._place, labels=labels)
            if pod["metadata"]["labels"].get(GENERATION_LABEL) in names
        ]

    # Counting

    def check(self, where: str) -> None:
        with self._tolerant():
            self._hear(self._generations)
        counted = total(since(self._ledger, self._checked).values())
        # A wait checks repeatedly: log it once, and whenever something fails.
        if where != self._where or counted.failed:
            self._checked, self._where = self._ledger, where
            self._say(f"Probe, {where}: {counted}")
        self._judge(where)

    def conclude(self, phase: str) -> str:
        self.check(phase)
        counted: Count = total(since(self._ledger, self._concluded).values())
        self._concluded = self._ledger
        return str(counted)

    def _judge(self, where: str) -> None:
        if self._judges and too_many(self._ledger, self._options.allowed_failures):
            count = self._ledger.all
            raise self._failed(
                where, f"{count.failed:,} of {count.sent:,} failed: {failing(self._ledger)}"
            )

    def _failed(self, where: str, found: str) -> RequestsFailed:
        allowed = self._options.allowed_failures
        return RequestsFailed(
            f"mesh {self._mesh.config.name}, {where}",
            expected=f"at most {allowed} failed requests between the probe's meshed pods"
            if allowed
            else "no failed request between the probe's meshed pods",
            found=found,
            remedy="Run verify_mesh and fix what it names, then run again: it resumes from the "
            "cluster's state. Allow failures that have another cause (probe.allowed_failures), "
            f"{TURN_OFF}.",
        )

    def _settle(self, where: str) -> None:
        """Waits until every client has enough answers from every server."""
        options = self._options
        asking = SETTLED / options.requests_per_second
        within = options.warm_up_seconds + 2 * asking + SETTLED_WITHIN_SECONDS
        said: Mapping[str, ProberReport] = {}

        def pause() -> float:
            # How long the missing answers take if all goes well.
            lacking = answers_lacking(said.values(), self._generations.names)
            return min(max(lacking / options.requests_per_second, 0.5), SILENCE_SECONDS)

        for is_last in polls(within, every=pause):
            said = self._hear(self._generations)
            self._judge(where)
            left = unsettled(said, self._generations.names)
            if not left:
                return
            if is_last:
                text = f"too few answers within {within:.0f} s: {'; '.join(left[:SHOWN])}"
                if self._judges:
                    raise self._failed(where, text)
                self._say(f"Probe, {where}: {text}")
                return

    def _hear(
        self, generations: Generations, leaving: tuple[Generation, ...] = ()
    ) -> dict[str, ProberReport]:
        """Reads every client's report, and tells it to send requests to these generations only.

        Args:
            leaving: those whose clients are to stop sending requests.

        Returns:
            The report of every client that could be reached and is not leaving, by its pod.

        Raises:
            NotReady: no client of a generation can be reached.
        """
        names = {each.name for each in leaving} | set(generations.names)
        wanted = dict.fromkeys(names, self._options.replicas)

        def hear() -> tuple[dict[str, ProberReport], dict[str, str]]:
            # Keep to the pods of the last time while each of them answers.
            is_known = Counter(map(_generation_of, self._heard)) == wanted
            said, silent = self._read(self._heard if is_known else [], generations.names)
            if not is_known or silent:
                living = self._pods((*generations.living, *leaving))
                self._heard = [pod for pod in living if _is_running(pod)]
                said, silent = self._read(self._heard, generations.names)
            self._ledger = self._ledger.heard(said.values())
            return said, silent

        def is_complete(heard: tuple[dict[str, ProberReport], dict[str, str]]) -> bool:
            return names <= {one.client for one in heard[0].values()}

        heard = poll(hear, is_complete, HEARD_WITHIN_SECONDS, every=0.5)
        said, silent = heard
        if not is_complete(heard):
            raise self._unheard(silent)
        for name, why in silent.items():
            self._say(f"Probe: Pod/{self._place}/{name} cannot be reached: {why}")
        return {pod: one for pod, one in said.items() if one.client in generations.names}

    def _read(
        self, pods: list[Object], asked: tuple[str, ...]
    ) -> tuple[dict[str, ProberReport], dict[str, str]]:
        """The reports of clients, by their pods, and why others gave none."""
        query = urlencode([("server", name) for name in asked])

        def read(pod: Object) -> ProberReport | str:
            path = f"ask?{query}" if _generation_of(pod) in asked else "ask"
            try:
                answer = self._get(pod, path, self._options.request_timeout_seconds)
                return parse_report(json.loads(answer))
            except ApiError as error:
                return error.found
            except ValueError as error:
                return f"an answer that cannot be read: {error}"

        names = [str(pod["metadata"]["name"]) for pod in pods]
        with ThreadPoolExecutor(READERS) as pool:
            answers = dict(zip(names, pool.map(read, pods), strict=True))
        return (
            {name: one for name, one in answers.items() if isinstance(one, ProberReport)},
            {name: one for name, one in answers.items() if isinstance(one, str)},
        )

    # Other proxies

    def census(
        self, pods: Sequence[Pod], names: Sequence[str], seconds: float
    ) -> Mapping[str, str]:
        """What the probe's pods read from other proxies, a hundred in one API call.

        Leaves out proxies that do not answer, such as behind a NetworkPolicy or a Linkerd policy.
        """
        # Skip an address that two pods have: a new pod may have got that of one that just ended.
        times = Counter(pod.ip for pod in pods)
        asked = {pod.ip: pod.uid for pod in pods if pod.ip and times[pod.ip] == 1}
        readers = [pod for pod in self._heard if _generation_of(pod) in self._generations.names]
        if not asked or not readers or self._in_vain >= MAX_EMPTY_READS:
            return {}
        addresses = list(asked)
        first, *others = (addresses[at : at + PROXIES] for at in range(0, len(addresses), PROXIES))

        def read(number: int, some: Sequence[str]) -> dict[str, str]:
            return self._metrics(readers[number % len(readers)], some, names, seconds)

        found = read(0, first)
        self._in_vain = 0 if found else self._in_vain + 1
        if not found:
            if self._in_vain == MAX_EMPTY_READS:
                self._say("Probe: its pods reach no proxy's metrics; using the API server instead.")
            return {}
        # As many calls at a time as there are readers, each for a hundred proxies.
        with ThreadPoolExecutor(len(readers)) as pool:
            for more in pool.map(read, range(1, len(others) + 1), others):
                found |= more
        return {asked[address]: text for address, text in found.items()}

    def _metrics(
        self, reader: Object, addresses: Sequence[str], names: Sequence[str], seconds: float
    ) -> dict[str, str]:
        """What one of the probe's pods reads from these proxies, by their addresses."""
        query = urlencode(
            [
                *(("proxy", each) for each in addresses),
                *(("name", each) for each in names),
                ("seconds", str(seconds)),
            ]
        )
        try:
            return read_lines(json.loads(self._get(reader, f"metrics?{query}", seconds)))
        except (ApiError, ValueError):
            return {}

    def _get(self, pod: Object, path: str, seconds: float) -> bytes:
        """What a pod of the probe answers on its results port; not retried.

        Args:
            seconds: how long the pod may take for its answer.
        """
        name = pod["metadata"]["name"]
        answer, _ = self._mesh.cluster.request(
            "GET",
            f"/api/v1/namespaces/{self._place}/pods/{name}:{RESULTS_PORT}/proxy/{path}",
            subject=name_of(pod),
            repeat=False,
            timeout=seconds + 5,
        )
        return answer

    def _unheard(self, silent: Mapping[str, str]) -> NotReady:
        names = ", ".join(self._generations.names)
        reasons = "; ".join(f"Pod/{self._place}/{name}: {why}" for name, why in silent.items())
        return NotReady(
            f"probe of mesh {self._mesh.config.name}",
            expected=f"a client of each generation ({names}) to answer through the API server's "
            "pod proxy",
            found=reasons or "no running pod of one of them",
            remedy="If the API server was unreachable for minutes, the probe is gone with its "
            f"fuse: run again. Otherwise grant get on pods/proxy in namespace {self._place} "
            "(docs/permissions.md), check that the API server reaches pods on port "
            f"{RESULTS_PORT}, {TURN_OFF}.",
        )


def _generation_of(pod: Object) -> str:
    return str(pod["metadata"]["labels"].get(GENERATION_LABEL, ""))


def _is_running(pod: Object) -> bool:
    is_going = bool(pod["metadata"].get("deletionTimestamp"))
    return not is_going and pod.get("status", {}).get("phase") == "Running"


def _silent(_text: str) -> None:
    """For callers that read the outcome at the end."""


def _no_progress(_ready: int, _wanted: int, _text: str) -> None:
    """For callers that do not show progress."""


def start_probe(
    mesh: Mesh,
    options: ProbeOptions,
    *,
    say: Say = _silent,
    on_progress: OnProgress = _no_progress,
) -> Probe:
    """Starts a probe; returns one that is off if disabled or if no node runs containers.

    Raises:
        MeshError: see `AskingProbe.start`; what it made is removed again.
    """
    if not options.enabled:
        return Probe("the probe is off (probe.enabled)")
    try:
        nodes = list(mesh.cluster.list("v1", "Node"))
    except ApiError as error:
        if error.status != 403:
            raise
        raise PreflightFailed(
            "permissions of the probe",
            expected="to list nodes, to know whether pods run on them",
            found=error.found,
            remedy=f"{GRANT[:-1]}, {TURN_OFF}. The mesh was not changed.",
        ) from None
    if not runs_pods(nodes):
        return Probe(SIMULATED)
    probe = AskingProbe(mesh, options, say=say, on_progress=on_progress)
    probe.start()
    return probe
