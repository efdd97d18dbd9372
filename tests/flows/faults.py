"""Faults in the middle of a flow's step.

Its own process is killed, a pod becomes unready, or the injector lags behind.
"""

from __future__ import annotations

import inspect
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any
from uuid import UUID, uuid4

from prefect.context import TaskRunContext

from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.kubernetes.rollout import is_pod_ready
from prefect_linkerd.mesh.records.rotation import RECORD as LEASE
from prefect_linkerd.tasks.step import Step
from tests.support.loopback import through_node

READY = "sandbox.prefect-linkerd/ready"


_step: ContextVar[tuple[str, UUID] | None] = ContextVar("step of a test", default=None)


@contextmanager
def at_step(step: Step[Any, Any], *args: Any, **kwargs: Any) -> Iterator[None]:
    """Marks the block as a run of a step, for runs where Prefect does not do that."""
    arguments = inspect.signature(step.fn).bind(*args, **kwargs).arguments
    token = _step.set((step.run_name.format(**arguments), uuid4()))
    try:
        yield
    finally:
        _step.reset(token)


def current_step() -> tuple[str, UUID] | None:
    """The name and the run of this thread's step; None in most threads that a step starts.

    `_name_steps_in_threads` makes a step known in the threads of its executors.
    """
    if (step := _step.get()) is not None:
        return step
    context = TaskRunContext.get()
    if context is None:
        return None
    # Prefect names a task run `task-xyz` if the task has no run name of its own.
    name = context.task_run.name
    return (
        context.task.name if name.startswith(f"{context.task.name}-") else name
    ), context.task_run.id


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in(step: str, writes: int) -> None:
    """Kills this process after a step's given number of writes to the API server.

    A Helm release is killed after two seconds; 0 kills a step that only reads after its first read.
    """
    request, reconcile = Cluster.request, Helm.reconcile
    count, lock, begun = 0, threading.Lock(), threading.Event()

    def dying_request(self: Cluster, method: str, path: str, **options: Any) -> Any:
        nonlocal count
        here = current_step()
        if here is not None and here[0] == step:
            begun.set()
        answer = request(self, method, path, **options)
        if here is None and path.endswith(f"/{LEASE}"):
            # A separate thread of the run renews the lease in every step.
            return answer
        # A step's own threads, which lack Prefect's context, make some of its requests.
        if not begun.is_set() or (here is not None and here[0] != step):
            return answer
        is_dry = "dryRun" in (options.get("query") or {})
        is_write = method != "GET" and not is_dry and "subjectaccessreviews" not in path
        with lock:
            count += is_write
            if count >= writes:
                die()
        return answer

    def dying_reconcile(self: Helm, *args: Any, **options: Any) -> Any:
        here = current_step()
        if here is None or here[0] != step:
            return reconcile(self, *args, **options)
        threading.Timer(2.0, die).start()
        outcome = reconcile(self, *args, **options)
        die()
        return outcome

    _name_steps_in_threads()
    Cluster.request = dying_request  # type: ignore[method-assign]
    Helm.reconcile = dying_reconcile  # type: ignore[method-assign]


def kill_after(kind: str) -> None:
    """Kills this process once it has applied an object of a kind."""
    apply = Cluster.apply

    def dying_apply(self: Cluster, obj: Object, **options: Any) -> Object:
        applied = apply(self, obj, **options)
        if obj["kind"] == kind:
            die()
        return applied

    Cluster.apply = dying_apply  # type: ignore[method-assign]


def make_unready(step: str, run: int, namespace: str) -> None:
    """Makes a pod of a namespace unready when a step runs for the `run`-th time."""
    request = Cluster.request
    runs: list[UUID] = []

    def ill_request(self: Cluster, method: str, path: str, **options: Any) -> Any:
        here = current_step()
        if here is not None and here[0] == step and here[1] not in runs:
            runs.append(here[1])
            if len(runs) == run:
                pods = list(self.list("v1", "Pod", namespace))
                # A terminating pod would not affect anything.
                pod = next(p for p in pods if not p["metadata"].get("deletionTimestamp"))
                name, patch = pod["metadata"]["name"], {"annotations": {READY: "false"}}
                self.merge("v1", "Pod", name, namespace, {"metadata": patch})
                while is_pod_ready(self.get("v1", "Pod", name, namespace) or {}):
                    time.sleep(0.1)
        return request(self, method, path, **options)

    _name_steps_in_threads()
    Cluster.request = ill_request  # type: ignore[method-assign]


def lag_behind(step: str, version: str) -> None:
    """Makes the injector give pods the proxy of a version once a step starts."""
    request, lock, begun = Cluster.request, threading.Lock(), threading.Event()

    def lagging_request(self: Cluster, method: str, path: str, **options: Any) -> Any:
        here = current_step()
        with lock:
            is_first = here is not None and here[0] == step and not begun.is_set()
            if is_first:
                begun.set()
        if is_first:
            # The injector copies the control plane's proxy, so change that one.
            plane = self.get("apps/v1", "Deployment", "linkerd-destination", "linkerd")
            assert plane is not None
            spec = plane["spec"]["template"]["spec"]
            for container in spec["containers"] + spec.get("initContainers", []):
                if container["name"] == "linkerd-proxy":
                    name = container["image"].rpartition(":")[0]
                    container["image"] = f"{name}:{version}"
            self.replace(plane)
        return request(self, method, path, **options)

    _name_steps_in_threads()
    Cluster.request = lagging_request  # type: ignore[method-assign]


def route_to_pod_processes() -> None:
    """Lets this process reach the results of a probe whose pods run on a `LoopbackNode`."""
    request = Cluster.request

    def led_request(self: Cluster, method: str, path: str, **options: Any) -> Any:
        return through_node(request, self, method, path, **options)

    Cluster.request = led_request  # type: ignore[method-assign]


def _name_steps_in_threads() -> None:
    """Lets `current_step` know the step in threads that a step's executor starts."""
    submit = ThreadPoolExecutor.submit

    def submit_in_context(
        self: ThreadPoolExecutor, work: Any, /, *args: Any, **options: Any
    ) -> Any:
        return submit(self, copy_context().run, work, *args, **options)

    ThreadPoolExecutor.submit = submit_in_context  # type: ignore[method-assign]
