"""The owner of everything that a run of smoke tests or the probe makes, so that nothing stays.

Everything that a run makes is owned by one object, its *fuse*: a Job without pods that is complete
at once and that Kubernetes deletes some time later, with everything it owns. A live run keeps
extending that time. So a run that is killed leaves nothing behind for longer than `FUSE_SECONDS`,
even if nothing of ours ever runs again; and the next run, which sees that the fuse is no longer
extended, need not wait that long.
Sources: https://kubernetes.io/docs/concepts/workloads/controllers/ttlafterfinished/ and
https://kubernetes.io/docs/concepts/architecture/garbage-collection/#owners-dependents
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from prefect_linkerd.mesh.errors import ApiError, NotReady
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object, name_of
from prefect_linkerd.mesh.kubernetes.objects import Gvk
from prefect_linkerd.mesh.kubernetes.waiting import Stopwatch, poll

FUSE_SECONDS = 120
TEND_EVERY_SECONDS = 10.0
SILENT_AFTER_SECONDS = 30
"""A fuse that has not been extended for this long belongs to a dead run."""

REMOVED_WITHIN_SECONDS = 120

_KINDS = (
    Gvk("batch/v1", "Job"),
    Gvk("apps/v1", "Deployment"),
    Gvk("apps/v1", "ReplicaSet"),
    Gvk("v1", "Service"),
    Gvk("v1", "ConfigMap"),
    Gvk("v1", "Pod"),
)


@dataclass(frozen=True)
class Family:
    """The runs of one purpose: how their objects are named and labelled, and their kinds.

    `leading` are the kinds that route traffic: they are deleted first, so that an injected fault
    ends at once.
    """

    name: str
    leading: tuple[Gvk, ...] = ()

    @property
    def run_label(self) -> str:
        """The label of everything that a run makes; its value is the run's id."""
        return f"{self.name}.prefect-linkerd/run"

    @property
    def fuse_label(self) -> str:
        return f"{self.name}.prefect-linkerd/fuse"

    @property
    def kinds(self) -> tuple[Gvk, ...]:
        """Every kind that a run may make, itself or through a controller."""
        return (*self.leading, *_KINDS)

    def fuse_name(self, run: str) -> str:
        """The name of a run's fuse, and the prefix of the names of all its objects."""
        return f"{self.name}-{run}"


def fuse(family: Family, run: str, namespace: str, labels: Mapping[str, str]) -> Object:
    """A Job that never makes a pod, is complete at once and is deleted after `FUSE_SECONDS`."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "none", "image": "none"}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": family.fuse_name(run),
            "namespace": namespace,
            "labels": {**labels, family.run_label: run, family.fuse_label: "true"},
        },
        "spec": {
            "completions": 0,
            "parallelism": 0,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": FUSE_SECONDS,
            "template": {"spec": pod},
        },
    }


def last_tended(job: Object) -> datetime:
    """When a fuse was last extended, by the cluster's clock."""
    completed = job.get("status", {}).get("completionTime")
    if completed is None:
        return datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    left: int = job["spec"].get("ttlSecondsAfterFinished", FUSE_SECONDS) - FUSE_SECONDS
    return datetime.fromisoformat(completed) + timedelta(seconds=left)


class Fuse:
    """A run's fuse, as a context manager that keeps extending it.

    At the end it deletes everything that the fuse owns.

    Args:
        run: the run's id.
        labels: labels of the fuse in addition to its own.

    Raises:
        NotReady: something that the fuse owns is not deleted in time.
    """

    def __init__(
        self,
        cluster: Cluster,
        family: Family,
        run: str,
        namespace: str,
        labels: Mapping[str, str],
    ) -> None:
        self._cluster, self._family, self._run = cluster, family, run
        self._namespace, self._labels = namespace, labels
        self._uid = ""
        self._is_lost = False
        # Seconds from the Job's completion to our look at it, and the time since.
        self._burned: tuple[float, Stopwatch] | None = None
        self._is_over = threading.Event()
        self._tender = threading.Thread(target=self._tend, daemon=True)

    def __enter__(self) -> Self:
        lit = self._cluster.apply(fuse(self._family, self._run, self._namespace, self._labels))
        self._uid = str(lit["metadata"]["uid"])
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
        remove(self._cluster, self._family, self._namespace, self._run)

    def reference(self) -> dict[str, str]:
        """The owner reference of an object that the fuse owns.

        Raises:
            NotReady: the fuse is gone, and what it owned with it.
        """
        name = self._family.fuse_name(self._run)
        if self._is_lost:
            raise NotReady(
                f"Job/{self._namespace}/{name}",
                expected="the object that owns everything that this run makes",
                found="that it is gone: the API server was unreachable, or somebody deleted it",
                remedy="Run again.",
            )
        return {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": self._uid}

    def _tend(self) -> None:
        while not self._is_over.wait(TEND_EVERY_SECONDS):
            # The next attempt is early enough.
            with contextlib.suppress(ApiError):
                self._extend()

    def _extend(self) -> None:
        name = self._family.fuse_name(self._run)
        if self._burned is None:
            self._look(name)
        if self._burned is None or self._is_lost:
            return
        before, since = self._burned
        burning = before + since.seconds
        patch = {
            # Makes the API server refuse the patch if another Job has that name.
            "metadata": {"uid": self._uid},
            "spec": {"ttlSecondsAfterFinished": int(burning) + FUSE_SECONDS},
        }
        try:
            self._cluster.merge("batch/v1", "Job", name, self._namespace, patch)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            self._look(name)

    def _look(self, name: str) -> None:
        job = self._cluster.get("batch/v1", "Job", name, self._namespace)
        if job is None or job["metadata"]["uid"] != self._uid:
            self._is_lost = True
        elif completed := job.get("status", {}).get("completionTime"):
            burning = self._cluster.clock() - datetime.fromisoformat(completed)
            self._burned = burning.total_seconds(), Stopwatch()


def clear_leftovers(cluster: Cluster, family: Family, namespace: str) -> list[str]:
    """Removes what dead runs left in a namespace; waits until it knows which runs are dead.

    Live runs, here or elsewhere, are left alone.

    Returns:
        The ids of the runs that were removed.

    Raises:
        NotReady: something that they left is not deleted in time.
    """
    began = cluster.clock()
    removed: list[str] = []
    while True:
        # List the owned objects before the fuses: a fuse is always older than what it owns.
        there = _runs(cluster, family, namespace)
        jobs = list(cluster.list("batch/v1", "Job", namespace, labels=family.fuse_label))
        tended = {
            str(job["metadata"]["labels"][family.run_label]): last_tended(job) for job in jobs
        }
        now = cluster.clock()
        silent = {
            run
            for run, moment in tended.items()
            if (now - moment).total_seconds() > SILENT_AFTER_SECONDS
        }
        for run in sorted(silent | (there - set(tended))):
            remove(cluster, family, namespace, run)
            removed.append(run)
        # A run that extended its fuse after we began is alive.
        if all(moment > began for run, moment in tended.items() if run not in silent):
            return removed
        time.sleep(1)


def _runs(cluster: Cluster, family: Family, namespace: str) -> set[str]:
    """The runs that have objects left, whether their fuse exists or not."""
    return {
        str(obj["metadata"]["labels"][family.run_label])
        for api_version, kind in _served(cluster, family.kinds)
        for obj in cluster.list(api_version, kind, namespace, labels=family.run_label)
    }


def _served(cluster: Cluster, kinds: Sequence[Gvk]) -> list[Gvk]:
    """The kinds that are served, each in one version."""
    groups: dict[tuple[str, str], Gvk] = {}
    for api_version, kind in kinds:
        key = (api_version.rpartition("/")[0], kind)
        if key not in groups and cluster.serves(api_version, kind):
            groups[key] = Gvk(api_version, kind)
    return list(groups.values())


def remove(cluster: Cluster, family: Family, namespace: str, run: str) -> None:
    """Deletes everything of a run, and waits until it is gone.

    Raises:
        NotReady: names what is not deleted in time.
    """
    labels = f"{family.run_label}={run}"
    for api_version, kind in _served(cluster, family.leading):
        for obj in cluster.list(api_version, kind, namespace, labels=labels):
            cluster.delete(api_version, kind, obj["metadata"]["name"], namespace)
    cluster.delete("batch/v1", "Job", family.fuse_name(run), namespace)
    kinds = _served(cluster, family.kinds)

    def remaining() -> list[str]:
        return [
            name_of(obj)
            for api_version, kind in kinds
            for obj in cluster.list(api_version, kind, namespace, labels=labels)
        ]

    left = poll(remaining, lambda found: not found, REMOVED_WITHIN_SECONDS, every=0.3)
    if left:
        raise NotReady(
            left[0],
            expected=f"to be gone within {REMOVED_WITHIN_SECONDS} s, with its owner",
            found=", ".join(left[:10]),
            remedy="Look for finalizers, and check that the garbage collector runs; "
            f"delete by label {labels}.",
        )
