"""What else may this identity not do? Asked once a cluster has refused a command's request."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import ApiError, PreflightFailed
from prefect_linkerd.mesh.kubernetes.permissions import FORBIDDEN, GRANT, denied, in_words
from prefect_linkerd.tasks.declared import declared_flows


@contextmanager
def named_together(command: str, config: MeshConfig) -> Generator[None]:
    """Names everything that a command always needs and may not do, and not the first of it alone.

    Args:
        command: what is run; its needs are its flow's grants, those of docs/permissions.md.

    Raises:
        PreflightFailed: instead of the refusal.
    """
    try:
        yield
    except ApiError as error:
        if error.status != FORBIDDEN:
            raise
        from prefect_linkerd.deployments.grants import always, status_reads
        from prefect_linkerd.deployments.roles import grants_of
        from prefect_linkerd.mesh.kubernetes.client import Cluster

        flows = {f.declaration.command: name for name, f in declared_flows().items()}
        flow = flows.get(command)
        asked = always(grants_of(flow, config, {}) if flow else status_reads(config))
        # Of what is needed only sometimes the refusal itself says what.
        if not (lacking := denied(Cluster.from_access(config.access), asked)):
            raise
        raise PreflightFailed(
            f"{command} of mesh {config.name}",
            expected="every permission that it needs",
            found=in_words(lacking),
            remedy=GRANT,
        ) from None
