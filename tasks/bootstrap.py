"""One run of a bootstrap, and its steps as people see them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from prefect_linkerd.mesh.bootstrap.run import Bootstrap, Charts, Stage, StepName
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.emojivoto import emojivoto
from prefect_linkerd.tasks.ingress import ingress
from prefect_linkerd.tasks.issuer import issuer
from prefect_linkerd.tasks.namespaces import namespaces
from prefect_linkerd.tasks.outside import Future
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.releases import dependency, release
from prefect_linkerd.tasks.step import Step, submit
from prefect_linkerd.tasks.trust_anchor import key_store, trust_anchor

P = ParamSpec("P")
R = TypeVar("R")


def bootstrap_of(mesh: Mesh, charts: Charts, facts: ClusterFacts) -> Bootstrap:
    """A run whose key is where the configuration says, and whose rollouts are shown."""
    return Bootstrap(mesh, charts, facts, key_store(mesh), partial(RolloutProgress, mesh.name))


def install(run: Bootstrap, stage: Stage) -> None:
    """The steps of a stage, side by side; the last in the flow's own thread, which Ctrl-C ends."""
    *others, last = (_ways(run, step) for step in stage)
    running = [start() for _, start in others]
    call, _ = last
    call()
    for each in running:
        each.result()


Ways = tuple[Callable[[], object], Callable[[], Future[object]]]
"""A step as a call, and as one that runs beside others."""


def _ways(run: Bootstrap, step: StepName) -> Ways:
    match step:
        case "namespaces":
            return _both(namespaces, run)
        case "trust anchor":
            return _both(trust_anchor, run)
        case "issuer":
            return _both(issuer, run)
        case "emojivoto":
            return _both(emojivoto, run)
        case "ingress":
            return _both(ingress, run)
        case "cert-manager" | "traefik":
            return _both(dependency, run, step)
        case _:
            return _both(release, run.mesh, run.charts[step], run.facts, run.anchor.bundle)


def _both(step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> Ways:
    return partial(step, *args, **kwargs), partial(submit, step, *args, **kwargs)
