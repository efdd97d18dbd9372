"""The mesh that a flow works on: its configuration, API server, Helm and charts."""

from __future__ import annotations

from functools import cached_property

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError
from prefect_linkerd.mesh.helm.charts import Chart, ChartCatalog
from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.rehearsal import made_by_rehearsal
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.linkerd.facts import TRUST_ROOTS, release_facts


class Mesh:
    """A mesh's configuration with its API server, Helm and charts, each created once.

    A flow creates one and passes it to every step: `mesh.cluster.get(…)`, `mesh.charts.find(…)`.
    Steps may use it from several threads.

    Args:
        cluster: its API server.
        config: the user's configuration.
        helm: by default the helm on the PATH.
    """

    def __init__(self, cluster: Cluster, config: MeshConfig, helm: Helm | None = None) -> None:
        self.cluster = cluster
        self.config = config
        self._helm = helm
        self._is_rehearsal: bool | None = None

    @property
    def name(self) -> str:
        return self.config.name

    @cached_property
    def helm(self) -> Helm:
        return self._helm or Helm(self.cluster)

    @cached_property
    def charts(self) -> ChartCatalog:
        """Finds the configuration's charts; reads each repository's index once."""
        return ChartCatalog(self.config)

    @cached_property
    def control_plane_chart(self) -> Chart:
        """The chart of the control plane, in the configuration's version.

        Raises:
            ChartError: its repository cannot be read, or lacks it.
        """
        return self.charts.find(release_facts(self.config.linkerd).control_plane_chart)

    @property
    def is_rehearsal(self) -> bool:
        """Whether it was, or is about to be, installed from stand-ins for Linkerd's charts.

        An annotation of the trust bundle says so, which every role may read; without permission it
        is False. The answer is cached, because an uninstall deletes the bundle, and the role too.
        """
        if self._is_rehearsal is None:
            catalog = self.__dict__.get("charts")
            if catalog is not None and catalog.has_rehearsal:
                self._is_rehearsal = True
            elif (bundle := self._trust_bundle()) is not None:
                self._is_rehearsal = made_by_rehearsal(bundle)
        return bool(self._is_rehearsal)

    def _trust_bundle(self) -> Object | None:
        place = self.config.namespaces.linkerd
        try:
            return self.cluster.get("v1", "ConfigMap", TRUST_ROOTS, place)
        except ApiError:
            # A report is still useful without this.
            return None

    def configured(self, config: MeshConfig) -> Mesh:
        """The same mesh with another configuration, such as that of another version."""
        return Mesh(self.cluster, config, self._helm)

    def __repr__(self) -> str:
        # Leaves out the configuration, which holds secrets.
        return f"Mesh({self.name!r} at {self.cluster.host})"
