"""Finds all missing permissions once a cluster has refused one of a command's requests."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.tasks.declared import declared_flows

if TYPE_CHECKING:
    # Keeps a command's help fast: it needs no cluster.
    from prefect_linkerd.mesh.kubernetes.client import Cluster
    from prefect_linkerd.mesh.kubernetes.permissions import Permission


def named_together(
    command: str, cluster: Cluster, config: MeshConfig
) -> AbstractContextManager[None]:
    """Names every missing permission that a command always needs; see `naming_all_missing`.

    Args:
        command: the command; it needs its flow's grants, those of docs/permissions.md.
    """
    from prefect_linkerd.mesh.kubernetes.permissions import naming_all_missing

    return naming_all_missing(
        cluster,
        f"{command} of mesh {config.name}",
        lambda: _needs(command, config),
        expected="every permission that it needs",
    )


def _needs(command: str, config: MeshConfig) -> list[Permission]:
    from prefect_linkerd.deployments.grants import always, status_reads
    from prefect_linkerd.deployments.roles import grants_of

    flows = {f.declaration.command: name for name, f in declared_flows().items()}
    flow = flows.get(command)
    return always(grants_of(flow, config, {}) if flow else status_reads(config))
