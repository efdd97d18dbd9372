"""Which cluster is meant? Asked before `bootstrap` where no mesh file says it."""

from __future__ import annotations

import sys

import typer

from prefect_linkerd.mesh.config.model import ClusterAccess, MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.helm.charts import charts_of
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.kubernetes.kubeconfig import choose, read_kubeconfig
from prefect_linkerd.mesh.planning.desired import dependencies_of


def confirm_target(config: MeshConfig, *, yes: bool) -> None:
    """Asks whether the kubeconfig's cluster is the one to install on.

    Args:
        yes: whether it is known already, by `--yes`.

    Raises:
        InvalidInput: there is nobody to ask, or the answer is no; nothing was changed.
    """
    target = cluster_words(config.access)
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput(
            "bootstrap",
            expected=f"a mesh file, or --yes to install on {target}",
            found="neither, and no terminal to ask at",
            remedy="Name the mesh's file, or add --yes. --dry-run needs neither.",
        )
    typer.echo(f"No mesh file is named. This would install on {target}:", err=True)
    typer.echo(f"  {installed_words(config)}", err=True)
    if not _agrees():
        raise InvalidInput(
            "bootstrap",
            expected=f"your consent to install on {target}",
            found="none",
            remedy="Nothing was changed. Choose another cluster by --context or --kubeconfig, or "
            "write a mesh file.",
        )


def _agrees() -> bool:
    try:
        return typer.confirm("Install?", err=True)
    except (typer.Abort, EOFError):
        return False


def reached(access: ClusterAccess) -> Cluster:
    """The cluster of an access, which answers: a person need not wait for requests repeated.

    Raises:
        ApiError: nobody answers there.
    """
    cluster = Cluster.from_access(access)
    cluster.reach()
    return cluster


def cluster_words(access: ClusterAccess) -> str:
    """The cluster of an access, by context and server."""
    if access.in_cluster:
        return "the cluster that this pod runs in"
    chosen = choose(read_kubeconfig(access.kubeconfig), access.context)
    return f"context {chosen.name} ({chosen.server})"


def installed_words(config: MeshConfig) -> str:
    """What bootstrap installs: the Linkerd version, its charts, and what comes with them."""
    more = ["emojivoto"] if config.emojivoto.enabled else []
    parts = ", ".join([*charts_of(config), *dependencies_of(config), *more])
    return f"Linkerd {config.linkerd} as mesh {config.name}: {parts}"
