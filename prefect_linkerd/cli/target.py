"""The cluster that a command works on; `bootstrap` asks for confirmation without a mesh file."""

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
        yes: whether `--yes` already confirmed it.

    Raises:
        InvalidInput: there is no terminal to ask at, or the answer is no; nothing was changed.
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
    """Returns a cluster that responds; fails at once instead of making a user wait for retries.

    Raises:
        ApiError: it is unreachable.
    """
    cluster = Cluster.from_access(access)
    cluster.reach()
    return cluster


def cluster_words(access: ClusterAccess) -> str:
    """Describes a cluster by its context and server."""
    if access.in_cluster:
        return "the cluster that this pod runs in"
    chosen = choose(read_kubeconfig(access.kubeconfig), access.context)
    return f"context {chosen.name} ({chosen.server})"


def installed_words(config: MeshConfig) -> str:
    """Describes what bootstrap installs: the Linkerd version, its charts and their dependencies."""
    more = ["emojivoto"] if config.emojivoto.enabled else []
    parts = ", ".join([*charts_of(config), *dependencies_of(config), *more])
    return f"Linkerd {config.linkerd} as mesh {config.name}: {parts}"
