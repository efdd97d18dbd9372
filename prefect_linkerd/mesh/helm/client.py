"""Helm releases: what is installed, what is wanted, and the step from one to the other.

The real helm binary makes every change to a release's objects, through pyhelm3. It reads values
from its standard input, so that they appear on no command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import semver

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, InvalidInput, ReleaseError
from prefect_linkerd.mesh.helm.chart_changes import has_newer_crds, own_folder_crds
from prefect_linkerd.mesh.helm.charts import Chart
from prefect_linkerd.mesh.helm.records import (
    Release,
    ReleaseRef,
    Revision,
    read_release,
    revisions,
    secret_name,
)
from prefect_linkerd.mesh.helm.safety_values import UnsafeValue
from prefect_linkerd.mesh.helm.values import ClusterFacts, Values
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Cluster, Object, name_of
from prefect_linkerd.mesh.kubernetes.manifests import read_objects
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.kubernetes.rollout import (
    OnProgress,
    TroubleWatch,
    await_rollouts,
    is_pod_ready,
    not_ready,
    read_workloads,
    rollout_status,
    workload_summary,
)
from prefect_linkerd.mesh.kubernetes.stall import Trouble, pod_trouble
from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS, release_facts

# pyhelm3 is imported only where helm is called, so that code that only reads a mesh starts faster.
if TYPE_CHECKING:
    from pyhelm3 import errors as helm_errors  # pyright: ignore[reportMissingTypeStubs]

    from prefect_linkerd.mesh.helm.process import HelmCommand

T = TypeVar("T")

Action = Literal["install", "upgrade", "unchanged", "wait", "recover"]

PENDING = ("pending-install", "pending-upgrade", "pending-rollback")

OLDEST_HELM = semver.Version(3, 13)
"""The first version that labels releases. Source: https://github.com/helm/helm/releases/tag/v3.13.0"""

# Releases whose helm this process has seen fail, by API server, namespace and name: if one is
# pending, no Helm process is still working on it.
_FAILED_HERE: set[tuple[str, str, str]] = set()

# What helm prints if the API server was unreachable or overloaded, rather than refused the request.
_PASSING = (
    "connection refused",
    "connection reset",
    "i/o timeout",
    "tls handshake timeout",
    "etcdserver",
    "unexpected eof",
    "the server is currently unable",
    "too many requests",
    "http2: client connection lost",
)


@dataclass(frozen=True)
class DesiredRelease:
    """A Helm release as it should be.

    `timeout` is in seconds; `hooks` says whether the chart's hooks are run; `unsafe` are the user's
    values that contradict the mesh, and are not among `values`.
    """

    name: str
    namespace: str
    chart: Chart
    values: Values = field(repr=False)
    timeout: int = 600
    hooks: bool = True
    unsafe: tuple[UnsafeValue, ...] = ()


@dataclass(frozen=True)
class ReleaseOutcome:
    """What was done to a release, and its state afterwards."""

    action: Literal["install", "upgrade", "unchanged"]
    release: Release


def desired_release(
    config: MeshConfig, chart: Chart, values: Values, at: ReleaseRef | None = None
) -> DesiredRelease:
    """The release of a chart in a mesh.

    Args:
        at: the chart's existing release. A new one is named after its chart, in the namespace that
            the configuration has for the chart.
    """
    # The extensions' only hook is a Job that sets labels and annotations on their namespace, which
    # these flows create with them. Without the hook there is no image to pull and no pod to wait
    # for; and in 2.12 no value points that image to a private registry, or gives jaeger's pod a
    # pull secret.
    has_job = release_facts(config.linkerd).labels_extensions_by_job
    hooks = not (has_job and chart.name in EXTENSION_CHARTS)
    ref = at or ReleaseRef(chart.name, config.namespaces.of_chart(chart.name))
    return DesiredRelease(ref.name, ref.namespace, chart, values, config.timeout_seconds, hooks)


def decide_release(
    desired: DesiredRelease, current: Release | None, now: datetime, grace: float
) -> Action:
    """The next step for a release.

    A helm whose flow died may still be working on a pending release, so the step is `wait` until
    nothing has changed for `grace` seconds, and only then `recover`. CRDs are never downgraded.
    """
    if current is None or current.status == "uninstalled":
        return "install"
    if current.status in PENDING or current.status == "uninstalling":
        age = (now - current.updated).total_seconds()
        return "wait" if age < grace else "recover"
    is_same = (current.chart, current.chart_version, current.values) == (
        desired.chart.name,
        desired.chart.version,
        desired.values,
    )
    is_newer = has_newer_crds(
        (current.chart, current.chart_version), (desired.chart.name, desired.chart.version)
    )
    if current.status == "deployed" and (is_same or is_newer):
        return "unchanged"
    return "upgrade"


def require_helm(executable: str = "helm") -> None:
    """Checks that helm is on PATH and can label releases.

    Raises:
        InvalidInput: it is missing, or too old.
    """
    remedy = f"Install helm {OLDEST_HELM} or newer: https://helm.sh/docs/intro/install/"
    if shutil.which(executable) is None:
        raise InvalidInput(
            executable, expected="the helm binary on PATH", found="none", remedy=remedy
        )
    if (version := _helm_version(executable)) < OLDEST_HELM:
        raise InvalidInput(
            executable, expected=f"helm {OLDEST_HELM} or newer", found=str(version), remedy=remedy
        )


class Helm:
    """Helm on one cluster.

    Args:
        cluster: where the releases are.
        executable: the helm binary.
        grace: seconds after which a pending release counts as left behind by a dead run; by
            default 30 more than its timeout, which a live run may take.

    Every method raises InvalidInput if helm is missing or too old.
    """

    def __init__(
        self, cluster: Cluster, executable: str = "helm", *, grace: float | None = None
    ) -> None:
        self._cluster = cluster
        self._executable = executable
        self._grace = grace

    def require(self) -> None:
        """Checks that there is a usable helm, before anything is changed.

        Raises:
            InvalidInput: it is missing, or too old.
        """
        require_helm(self._executable)

    @contextlib.contextmanager
    def _command(self) -> Generator[HelmCommand]:
        from prefect_linkerd.mesh.helm.process import HelmCommand

        # pyhelm3's Client parses every manifest that helm prints, which takes seconds for CRDs; its
        # Command does not.
        self.require()
        with self._cluster.kubeconfig_file() as kubeconfig:
            yield HelmCommand(executable=self._executable, kubeconfig=kubeconfig)

    def render(
        self, chart: Chart, name: str, namespace: str, values: Values, facts: ClusterFacts
    ) -> list[Object]:
        """The objects that a chart renders from values for this cluster; nothing is installed."""
        versions = [f"--api-versions={version}" for version in sorted(facts.api_versions)]
        arguments = ["template", name, str(chart.path), "--namespace", namespace, "--include-crds"]
        arguments += ["--kube-version", facts.version, *versions, "--values", "-"]
        with self._command() as command:
            text = _run(command.run(arguments, json.dumps(values).encode()), f"chart {chart.name}")
        return read_objects(text)

    def reconcile(
        self, desired: DesiredRelease, on_progress: OnProgress | None = None
    ) -> ReleaseOutcome:
        """Brings a release to the wanted chart, version and values; does nothing if it has them.

        CRDs of a chart's `crds/` folder, which Helm never upgrades, are applied before an upgrade.
        Waits for the release's workloads. An upgrade that fails is rolled back (helm's atomic). So
        is a first installation, unless its chart contains CRDs: deleting those would delete every
        custom resource with them. If a workload can no longer come up, helm is stopped before its
        timeout, and rolls back all the same: see `kubernetes.stall`.

        Raises:
            NotReady: a workload that helm does not wait for did not come up.
            ReleaseError: helm's own message, and what was not ready; `transient` if the API server
                could not be reached.
        """
        key = (self._cluster.host, desired.namespace, desired.name)
        grace = self._grace if self._grace is not None else desired.timeout + 30.0
        if key in _FAILED_HERE:
            grace = 0.0
        with self._command() as command:
            while True:
                current = read_release(self._cluster, desired.name, desired.namespace)
                action = decide_release(desired, current, datetime.now(UTC), grace)
                if action == "wait":
                    time.sleep(1)
                elif action == "recover" and current is not None:
                    self._forget(current)
                elif current is not None and action == "unchanged":
                    return ReleaseOutcome("unchanged", current)
                else:
                    # The helm of a killed flow may start only after this check: wait for it.
                    with contextlib.suppress(_Busy):
                        return self._install_or_upgrade(command, desired, current, on_progress)
                    time.sleep(1)

    def upgrade_again(
        self, desired: DesiredRelease, on_progress: OnProgress | None = None
    ) -> ReleaseOutcome:
        """Upgrades a release to the same chart and values, to renew what its chart generates.

        Raises:
            NotReady: see `reconcile`.
            ReleaseError: see `reconcile`; or the release is not deployed with this chart and these
                values, so more would change.
        """
        with self._command() as command:
            current = read_release(self._cluster, desired.name, desired.namespace)
            if decide_release(desired, current, datetime.now(UTC), 0) != "unchanged":
                have = f"{current.chart} {current.chart_version}" if current else "none"
                raise ReleaseError(
                    f"Helm release {desired.namespace}/{desired.name}",
                    expected=f"{desired.chart.name} {desired.chart.version}, deployed with the "
                    "values that it had a moment ago",
                    found=f"{have}, {current.status}" if current else have,
                    remedy="Another run has changed it: let that finish, then run again.",
                )
            try:
                return self._install_or_upgrade(command, desired, current, on_progress)
            except _Busy as busy:
                raise busy.failure from None

    def _install_or_upgrade(
        self,
        command: HelmCommand,
        desired: DesiredRelease,
        current: Release | None,
        on_progress: OnProgress | None,
    ) -> ReleaseOutcome:
        """Installs or upgrades a release and waits for its workloads.

        Raises:
            _Busy: another helm is changing it.
        """
        from pyhelm3 import errors as helm_errors  # pyright: ignore[reportMissingTypeStubs]

        subject = f"Helm release {desired.namespace}/{desired.name}"
        key = (self._cluster.host, desired.namespace, desired.name)
        is_first = current is None or current.status == "uninstalled"
        if current is not None and current.chart_version != desired.chart.version:
            for crd in own_folder_crds(self._cluster, desired.chart):
                self._cluster.apply(crd)
        with _Watch(self._cluster, desired.namespace, on_progress, desired.name) as watch:
            try:
                release = self._apply(
                    command, desired, watch, atomic=not (is_first and desired.chart.has_crds)
                )
            except _HelmStopped as ended:
                _FAILED_HERE.add(key)
                self._settle(desired)
                raise ReleaseError(
                    subject,
                    expected="its workloads to come up",
                    found=f"{ended.trouble}; helm was stopped: waiting longer does not help",
                    remedy=ended.trouble.remedy,
                ) from None
            except helm_errors.Error as error:
                failure = _failure(subject, error, watch.last_trouble())
                if _IN_PROGRESS in failure.found:
                    raise _Busy(failure) from None
                _FAILED_HERE.add(key)
                raise failure from None
        self._require_recorded(release, key)
        _FAILED_HERE.discard(key)
        # Helm waits for pods to be ready, but not for a Deployment's minReadySeconds.
        await_rollouts(
            self._cluster,
            [
                Workload(obj["kind"], desired.namespace, obj["metadata"]["name"])
                for obj in read_workloads(self._cluster, desired.namespace)
                if _release_of(obj) == desired.name
            ],
            desired.timeout,
            on_progress or _ignore,
        )
        return ReleaseOutcome("install" if is_first else "upgrade", release)

    def roll_back(
        self,
        name: str,
        namespace: str,
        revision: int,
        timeout: int,
        on_progress: OnProgress | None = None,
    ) -> bool:
        """Rolls a release back to an earlier revision, and waits for its workloads.

        Returns whether anything was done: False if the release is deployed with that revision's
        chart and values already. An interrupted rollback is repeated. Helm is never stopped early:
        `helm rollback` handles no signal, and would leave its record pending.

        Args:
            timeout: seconds that it may take.

        Raises:
            ReleaseError: the revision is no longer kept, or helm's own message.
        """
        from pyhelm3 import errors as helm_errors  # pyright: ignore[reportMissingTypeStubs]

        subject = f"Helm release {namespace}/{name}"
        kept = {found.number: found for found in revisions(self._cluster, name, namespace)}
        wanted = kept.get(revision)
        if wanted is None:
            raise ReleaseError(
                subject,
                expected=f"revision {revision} to roll back to",
                found=f"revisions {', '.join(map(str, kept)) or 'none'}",
                remedy="Install the earlier version from its chart.",
            )
        key = (self._cluster.host, namespace, name)
        grace = (
            0.0 if key in _FAILED_HERE else (timeout + 30.0 if self._grace is None else self._grace)
        )
        with self._command() as command:
            while (current := read_release(self._cluster, name, namespace)) is not None:
                if current.status not in PENDING:
                    break
                if (datetime.now(UTC) - current.updated).total_seconds() < grace:
                    time.sleep(1)
                else:
                    self._forget(current)
            if current is not None and _matches_revision(current, wanted):
                return False
            with _Watch(self._cluster, namespace, on_progress) as watch:
                try:
                    asyncio.run(
                        command.rollback(
                            name,
                            cast("Any", str(revision)),
                            namespace=namespace,
                            timeout=f"{timeout}s",
                            wait=True,
                        )
                    )
                except helm_errors.Error as error:
                    _FAILED_HERE.add(key)
                    raise _failure(subject, error, watch.last_trouble()) from None
        return True

    def uninstall(self, name: str, namespace: str, timeout: int) -> None:
        """Uninstalls a release and keeps its history, so that `roll_back` can bring it back.

        Does nothing if it is not installed.
        """
        with self._command() as command:
            current = read_release(self._cluster, name, namespace)
            if current is None or current.status == "uninstalled":
                return
            work = command.uninstall(
                name, namespace=namespace, keep_history=True, timeout=f"{timeout}s", wait=True
            )
            _run(work, f"Helm release {namespace}/{name}")

    def remove(self, name: str, namespace: str, timeout: int) -> None:
        """Uninstalls a release with its history; does nothing if it has no record.

        Also finishes one that was uninstalled halfway, or whose history was kept.
        """
        with self._command() as command:
            if read_release(self._cluster, name, namespace) is None:
                return
            work = command.uninstall(name, namespace=namespace, timeout=f"{timeout}s")
            _run(work, f"Helm release {namespace}/{name}")

    def _apply(
        self, command: HelmCommand, desired: DesiredRelease, watch: _Watch, *, atomic: bool
    ) -> Release:
        # Helm 4 renamed --atomic.
        is_new = _helm_version(self._executable).major >= 4
        labels = ",".join(f"{key}={value}" for key, value in MADE_HERE.items())
        # Like pyhelm3's install_or_upgrade, which does not support labels.
        arguments = ["upgrade", desired.name, str(desired.chart.path), "--install"]
        arguments += ["--namespace", desired.namespace, "--labels", labels, "--reset-values"]
        arguments += ["--history-max", "10", "--wait", "--wait-for-jobs"]
        arguments += ["--timeout", f"{desired.timeout}s", "--values", "-", "--output", "json"]
        if atomic:
            arguments.append("--rollback-on-failure" if is_new else "--atomic")
        if not desired.hooks:
            arguments.append("--no-hooks")
        printed = watch.run(command.run(arguments, json.dumps(desired.values).encode()))
        result = cast("dict[str, Any]", json.loads(printed))
        return Release(
            name=desired.name,
            namespace=desired.namespace,
            chart=desired.chart.name,
            chart_version=desired.chart.version,
            app_version=desired.chart.app_version,
            revision=int(result["version"]),
            status=str(result["info"]["status"]),
            updated=datetime.now(UTC),
            values=desired.values,
            labels=MADE_HERE,
        )

    def _require_recorded(self, release: Release, key: tuple[str, str, str]) -> None:
        """Checks the release's record: helm reports success even if it could not write that."""
        name = secret_name(release.name, release.revision)
        record = self._cluster.get("v1", "Secret", name, release.namespace)
        status = record["metadata"]["labels"]["status"] if record else "missing"
        if status == "deployed":
            return
        _FAILED_HERE.add(key)
        raise ReleaseError(
            f"Helm release {release.namespace}/{release.name}",
            expected=f"revision {release.revision} to be recorded as deployed",
            found=f"{status}: the API server was unreachable when helm wrote it",
            remedy="Run again.",
            transient=True,
        )

    def _settle(self, desired: DesiredRelease) -> None:
        """Leaves a record from which the next run can resume at once, wherever that runs.

        A stopped helm has recorded that it failed, or rolled back. If it was killed before it could
        do so, it has left a pending record, which is deleted: nothing is still working on that.
        """
        left = read_release(self._cluster, desired.name, desired.namespace)
        if left is not None and left.status in PENDING:
            self._forget(left)

    def _forget(self, release: Release) -> None:
        """Deletes the record of a pending revision, and nothing else.

        The objects that it made stay: helm adopts what carries the release's own annotations.
        The revision before it, if any, becomes the newest again. Uninstalling instead, as is often
        advised, would delete CRDs and with them every custom resource.
        """
        self._cluster.delete(
            "v1",
            "Secret",
            secret_name(release.name, release.revision),
            release.namespace,
        )


def _matches_revision(current: Release, wanted: Revision) -> bool:
    """Whether a release is deployed with the chart and values of one of its revisions."""
    return current.status == "deployed" and (
        (current.chart, current.chart_version, current.values or {})
        == (wanted.chart, wanted.chart_version, wanted.values)
    )


@functools.cache
def _helm_version(executable: str) -> semver.Version:
    from prefect_linkerd.mesh.helm.process import HelmCommand

    version = _run(HelmCommand(executable=executable).version(), executable)
    return semver.Version.parse(version.removeprefix("v"))


def _release_of(obj: Object) -> str | None:
    return obj["metadata"].get("annotations", {}).get("meta.helm.sh/release-name")


def _ignore(_ready: int, _wanted: int, _text: str) -> None:
    """Ignores progress."""


class _HelmStopped(Exception):
    """Helm was stopped, because a workload of its release cannot come up."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble
        super().__init__(trouble)


class _Watch:
    """Watches a namespace's workloads while helm waits for them; stops helm if that is futile.

    Args:
        release: the release whose workloads can stop helm; none can if it is empty.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        on_progress: OnProgress | None,
        release: str = "",
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._on_progress = on_progress
        self._release = release
        self._trouble: list[str] = []
        self._before: dict[str, int] = {}
        self._troubles = TroubleWatch(cluster, is_new=self._is_new)
        self._given_up: Trouble | None = None
        self._stop: Callable[[], object] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        with contextlib.suppress(ApiError):
            self._before = {
                name_of(obj): obj["metadata"].get("generation", 0)
                for obj in read_workloads(self._cluster, self._namespace)
            }
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=10)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs helm until it exits, or until a workload of its release can no longer come up.

        Helm is stopped with SIGTERM, on which `helm install` and `upgrade` record that they failed
        and, if they are atomic, roll back. Source: helm `cmd/helm/upgrade.go`,
        `pkg/action/upgrade.go` (handleContext, failRelease).

        Raises:
            _GivenUp: helm was stopped, and has exited.
        """

        async def stoppable() -> T:
            task = asyncio.ensure_future(work)
            loop = asyncio.get_running_loop()
            self._stop = lambda: loop.call_soon_threadsafe(task.cancel)
            try:
                # On cancellation the task sends helm SIGTERM and waits for its exit.
                return await task
            except asyncio.CancelledError:
                if self._given_up is None:
                    raise
                raise _HelmStopped(self._given_up) from None
            finally:
                self._stop = None

        return asyncio.run(stoppable())

    def last_trouble(self) -> list[str]:
        """What is not ready, or was when last seen: a rollback may have removed it by now."""
        try:
            return not_ready(self._cluster, self._namespace) or self._trouble
        except ApiError:
            return self._trouble

    def _is_new(self, workload: Object) -> bool:
        """Whether helm has changed a workload; until then helm may be about to fix its trouble."""
        return workload["metadata"].get("generation", 0) != self._before.get(name_of(workload))

    def _look(self) -> None:
        looks = idle = 0
        while not self._over.wait(2.0):
            looks += 1
            try:
                workloads = read_workloads(self._cluster, self._namespace)
                ready, wanted, text = workload_summary(workloads)
                own = [obj for obj in workloads if _release_of(obj) == self._release]
                late = [obj for obj in own if not rollout_status(obj).is_complete]
                self._troubles.inspect(late)
                text += self._troubles.words
                idle = 0 if ready < wanted else idle + 1
                if idle > 1:
                    text += self._job_trouble()
                # Finding reasons takes a list and requests for events: only on every fifth look.
                if looks % 5 == 0:
                    self._trouble = not_ready(self._cluster, self._namespace) or self._trouble
            except ApiError:
                # Helm itself meets the same error and reports it.
                continue
            if self._on_progress is not None and not self._over.is_set():
                self._on_progress(ready, wanted, text)
            if self._troubles.ended is not None and self._given_up is None:
                self._give_up(self._troubles.ended[1])

    def _job_trouble(self) -> str:
        """Why a hook's Job does not finish; helm waits for it once everything else is ready."""
        for pod in self._cluster.list("v1", "Pod", self._namespace):
            owners: list[dict[str, Any]] = pod["metadata"].get("ownerReferences") or []
            is_job = any(owner["kind"] == "Job" for owner in owners)
            if is_job and not is_pod_ready(pod) and (trouble := pod_trouble(pod)):
                return f"; {trouble}"
        return ""

    def _give_up(self, trouble: Trouble) -> None:
        stop = self._stop
        if stop is None:
            return
        self._given_up = trouble
        # Helm may have exited in the meantime.
        with contextlib.suppress(RuntimeError):
            stop()


def _run(work: Coroutine[Any, Any, T], subject: str) -> T:
    from pyhelm3 import errors as helm_errors  # pyright: ignore[reportMissingTypeStubs]

    try:
        return asyncio.run(work)
    except helm_errors.Error as error:
        raise _failure(subject, error, []) from None


_IN_PROGRESS = "another operation (install/upgrade/rollback) is in progress"
"""What helm prints if the newest record of a release is pending."""


class _Busy(Exception):
    """Another helm is changing the release; nothing was done."""

    def __init__(self, failure: ReleaseError) -> None:
        super().__init__(str(failure))
        self.failure = failure


def _failure(subject: str, error: helm_errors.Error, trouble: list[str]) -> ReleaseError:
    message = error.stderr.decode(errors="replace").strip()
    text = message.lower()
    return ReleaseError(
        subject,
        expected="helm to succeed",
        found="; ".join([message[-1500:], *trouble]),
        remedy=(
            "Another installer owns the named object: uninstall that, or hand it over with the "
            "meta.helm.sh annotations and the label that helm names."
            if "invalid ownership metadata" in text
            else "Fix what helm names, then run again."
        ),
        transient=any(sign in text for sign in _PASSING),
    )
