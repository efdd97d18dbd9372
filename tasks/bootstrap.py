"""Runs a bootstrap as visible steps."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from prefect_linkerd.mesh.bootstrap.early import FirstInstall
from prefect_linkerd.mesh.bootstrap.run import Bootstrap, Charts, Stage, StepName
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.emojivoto import emojivoto
from prefect_linkerd.tasks.ingress import ingress
from prefect_linkerd.tasks.issuer import issuer
from prefect_linkerd.tasks.namespaces import namespaces
from prefect_linkerd.tasks.outside import Future, outside
from prefect_linkerd.tasks.preflight import PlannedBootstrap
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.releases import dependency, release
from prefect_linkerd.tasks.step import Step, submit
from prefect_linkerd.tasks.trust_anchor import key_store, trust_anchor

LOOK = 0.2
"""Seconds between two checks of a release that may be up before helm notices."""


def bootstrap_of(mesh: Mesh, charts: Charts, planned: PlannedBootstrap) -> Bootstrap:
    """A bootstrap with the key store that the configuration names, and with rollout progress."""
    shown = partial(RolloutProgress, mesh.name)
    return Bootstrap(mesh, charts, planned.facts, key_store(mesh), shown, planned.rendered)


def install(run: Bootstrap) -> None:
    """Runs every stage: a stage starts when the previous one is up, and finishes after it."""
    ending: list[Future[Any]] = []
    for stage in run.stages:
        up = _begin(run, stage)
        for each in ending:
            each.result()
        ending = up
    for each in ending:
        each.result()


def _begin(run: Bootstrap, stage: Stage) -> list[Future[Any]]:
    """Runs a stage's steps in parallel until all are up; returns those still running.

    The last step that cannot be up before it finishes runs in the flow's own thread, which Ctrl-C
    interrupts.
    """
    early = {name: seen for name in stage if (seen := run.first_install(name)) is not None}
    others: list[StepName] = [name for name in stage if name not in early]
    own = others[-1] if others else None
    running: list[tuple[StepName, Future[Any]]] = []
    for name in stage:
        if name != own:
            step, arguments = _step_of(run, name)
            running.append((name, submit(step, *arguments)))
    if own is not None:
        step, arguments = _step_of(run, own)
        step(*arguments)
    ending: list[Future[Any]] = []
    for name, future in running:
        if name not in early:
            future.result()
        elif not _has_ended(future, early[name]):
            ending.append(future)
    return ending


def _has_ended(future: Future[Any], seen: FirstInstall) -> bool:
    """Waits until a step is up or has finished; returns whether it has finished."""
    while True:
        begin = time.monotonic()
        try:
            future.result(timeout=LOOK)
        except TimeoutError:
            if time.monotonic() - begin < LOOK:
                # Raised by the step itself.
                raise
        else:
            return True
        outside().check()
        if seen.is_up():
            return False


def _step_of(run: Bootstrap, name: StepName) -> tuple[Step[..., Any], tuple[Any, ...]]:
    """A step and its arguments."""
    match name:
        case "namespaces":
            return namespaces, (run,)
        case "trust anchor":
            return trust_anchor, (run,)
        case "issuer":
            return issuer, (run,)
        case "emojivoto":
            return emojivoto, (run,)
        case "ingress":
            return ingress, (run,)
        case "cert-manager" | "traefik":
            return dependency, (run, name)
        case _:
            return release, (run.mesh, run.charts[name], run.facts, run.anchor.bundle)
