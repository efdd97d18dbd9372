"""One run of a bootstrap, and its steps as people see them."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect_linkerd.mesh.bootstrap.run import Bootstrap, Charts, Stage, StepName
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.tasks.emojivoto import emojivoto
from prefect_linkerd.tasks.ingress import ingress
from prefect_linkerd.tasks.issuer import issuer
from prefect_linkerd.tasks.namespaces import namespaces
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.releases import dependency, release
from prefect_linkerd.tasks.step import Step, submit
from prefect_linkerd.tasks.trust_anchor import key_store, trust_anchor


def bootstrap_of(mesh: Mesh, charts: Charts, facts: ClusterFacts) -> Bootstrap:
    """A run whose key is where the configuration says, and whose rollouts are shown."""
    return Bootstrap(mesh, charts, facts, key_store(mesh), partial(RolloutProgress, mesh.name))


def install(run: Bootstrap, stage: Stage) -> None:
    """The steps of a stage, side by side; the last in the flow's own thread, which Ctrl-C ends."""
    *others, (last, arguments) = (_step_of(run, name) for name in stage)
    running = [submit(step, *given) for step, given in others]
    last(*arguments)
    for each in running:
        each.result()


def _step_of(run: Bootstrap, name: StepName) -> tuple[Step[..., Any], tuple[Any, ...]]:
    """A step, and what it is called with."""
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
