"""The steps of a bootstrap and their order. A run can be killed at any point and run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Literal

from prefect_linkerd.mesh.bootstrap.early import EARLY, FirstInstall, first_install
from prefect_linkerd.mesh.config.model import Dependency, MeshConfig
from prefect_linkerd.mesh.helm.charts import Chart, ChartName, charts_of
from prefect_linkerd.mesh.helm.values import ClusterFacts
from prefect_linkerd.mesh.identity.issuer import Issuer, ensure_issuer
from prefect_linkerd.mesh.identity.trust_anchor import KeyStore, TrustAnchor, ensure_trust_anchor
from prefect_linkerd.mesh.install.emojivoto import Deployed, deploy_emojivoto
from prefect_linkerd.mesh.install.ingress import ensure_ingress
from prefect_linkerd.mesh.install.namespaces import ensure_namespaces
from prefect_linkerd.mesh.install.registry import ensure_pull_secrets
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.kubernetes.rollout import Shown
from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS, release_facts
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.releases import (
    FoundDependency,
    Reconciled,
    ensure_dependency,
    ensure_release,
)

WIDTH = 8
"""How many steps run in parallel without Prefect; more than any stage has."""

Charts = dict[ChartName, Chart]
"""The charts that a mesh is installed from, by name, in order."""

StepName = Literal["namespaces", "trust anchor", "issuer", "emojivoto", "ingress"] | ChartName
"""A step; that of a Helm release has the name of its chart."""

Stage = tuple[StepName, ...]
"""Steps that do not depend on each other, and run in parallel once those before are up."""

Rendered = Mapping[str, Sequence[Object]]
"""The objects of charts, as the plan has rendered them."""


def find_charts(mesh: Mesh) -> Charts:
    """Linkerd's charts of a mesh, each found in its repository.

    Raises:
        ChartError: a repository cannot be read, or lacks a chart.
    """
    return {name: mesh.charts.find(name) for name in charts_of(mesh.config)}


def stages(config: MeshConfig) -> tuple[Stage, ...]:
    """The steps of a configuration: each stage needs those before it to be up.

    The CRDs need no identity, and cert-manager's rollout takes long, so they run in parallel.
    Everything on top of the control plane is a workload of the mesh, independent of the others.
    """
    charts = charts_of(config)
    control_plane = release_facts(config.linkerd).control_plane_chart
    on_top: list[StepName] = [name for name in charts if name in EXTENSION_CHARTS]
    early: list[StepName] = [n for n in charts if n != control_plane and n not in on_top]
    early.append("cert-manager" if config.issuer == "cert-manager" else "issuer")
    if config.emojivoto.enabled:
        on_top.append("emojivoto")
    if config.traefik.enabled:
        on_top.append("traefik")
    found: list[Stage] = [
        ("namespaces",),
        ("trust anchor",),
        tuple(early),
        () if "issuer" in early else ("issuer",),
        (control_plane,),
        tuple(on_top),
        ("ingress",) if config.traefik.enabled else (),
    ]
    return tuple(stage for stage in found if stage)


class Bootstrap:
    """One run of a bootstrap. Each step does only what is missing.

    Args:
        charts: Linkerd's, as the configuration wants them.
        facts: the cluster's, before the first step.
        store: where the trust anchor's key is kept.
        shown: shows a rollout.
        rendered: the charts' objects from the plan, which show early that a release is up.
    """

    def __init__(
        self,
        mesh: Mesh,
        charts: Charts,
        facts: ClusterFacts,
        store: KeyStore,
        shown: Shown,
        rendered: Rendered | None = None,
    ) -> None:
        self.mesh = mesh
        self.charts = charts
        self.facts = facts
        self._store = store
        self._shown = shown
        self._rendered: Rendered = rendered or {}
        self._anchor: TrustAnchor | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        return stages(self.mesh.config)

    @property
    def anchor(self) -> TrustAnchor:
        """The trust anchor, once its step is done."""
        if self._anchor is None:
            raise RuntimeError("the trust anchor's step comes first")
        return self._anchor

    def first_install(self, step: StepName) -> FirstInstall | None:
        """What shows before a step's end that its release is up; None if only its end does.

        To be called before the step. Only for a first installation that does not end with a hook.
        """
        if step not in EARLY:
            return None
        rendered = self._rendered.get(step, ())
        place = self.mesh.config.namespaces.of_chart(step)
        return first_install(self.mesh.cluster, place, rendered)

    def run(self) -> None:
        """Runs every step, without Prefect.

        Raises:
            MeshError: the error of the first step that failed.
        """
        with ThreadPoolExecutor(WIDTH) as pool:
            for stage in self.stages:
                # A key store may need the caller's context, such as its Prefect server.
                for step in [pool.submit(copy_context().run, self.do, step) for step in stage]:
                    step.result()

    def do(self, step: StepName) -> object:
        """Runs one step; returns its result."""
        match step:
            case "namespaces":
                return self.make_namespaces()
            case "trust anchor":
                return self.ensure_anchor()
            case "issuer":
                return self.ensure_issuer()
            case "emojivoto":
                return self.deploy_emojivoto()
            case "ingress":
                return self.make_ingress()
            case "cert-manager" | "traefik":
                return self.use_dependency(step)
            case _:
                return self.release(step)

    def make_namespaces(self) -> list[str]:
        """Creates namespaces and their pull secrets; returns the new or changed namespaces."""
        changed = ensure_namespaces(self.mesh)
        ensure_pull_secrets(self.mesh)
        return changed

    def ensure_anchor(self) -> TrustAnchor:
        """Ensures the trust anchor, which it never replaces.

        Raises:
            InvalidInput: the provided, kept or trusted anchor is unfit; nothing was changed.
        """
        self._anchor = ensure_trust_anchor(self.mesh, self._store, datetime.now(UTC))
        return self._anchor

    def ensure_issuer(self) -> Issuer:
        """Ensures the issuer, signed here or by cert-manager."""
        return ensure_issuer(self.mesh, self.anchor, self._store, datetime.now(UTC))

    def release(self, name: ChartName) -> Reconciled:
        """Installs or upgrades the release of one of Linkerd's charts.

        Raises:
            ReleaseError: Helm fails, or its workloads do not come up.
        """
        return ensure_release(
            self.mesh, self.charts[name], self.facts, self._shown, self.anchor.bundle
        )

    def use_dependency(self, name: Dependency) -> Reconciled | FoundDependency:
        """Ensures a dependency's release; if somebody else has installed it, returns who."""
        return ensure_dependency(self.mesh, name, self.facts, self._shown)

    def deploy_emojivoto(self) -> Deployed:
        return deploy_emojivoto(self.mesh, self._shown)

    def make_ingress(self) -> list[Object]:
        """Creates the objects that put the dashboard and the application behind Traefik."""
        return ensure_ingress(self.mesh)
