"""Where a run keeps the trust anchor's private key: chosen before the run, shown after it."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from pydantic import ValidationError

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.identity.trust_anchor import (
    ANCHOR_SECRET,
    keeps_key,
    read_snapshot,
    read_tls_secret,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh_file import wrong_fields
from prefect_linkerd.passphrase import PASSPHRASE, find_passphrase
from prefect_linkerd.tasks.names import mesh_key


def is_chosen(config: MeshConfig) -> bool:
    """Whether the mesh names a place for the key other than a Prefect server."""
    anchor = config.trust_anchor
    return anchor.custody == "in-cluster" or anchor.key_file is not None


def with_place(config: MeshConfig, flow: str) -> MeshConfig:
    """Returns the mesh with a place for the key; asks for a missing one if the run needs it.

    For runs without a Prefect server.

    Raises:
        InvalidInput: there is no place, and no terminal to ask at; nothing was changed.
    """
    if is_chosen(config) or (flow == "bootstrap" and not _will_keep_a_key(config)):
        return config
    if not sys.stdin.isatty():
        raise no_place(config)
    return _ask(config)


def no_place(config: MeshConfig) -> InvalidInput:
    """Returns the error for a key without a place, where there is no terminal to ask at."""
    block = config.trust_anchor.secret_block
    return InvalidInput(
        f"mesh {config.name}",
        expected="a place for the trust anchor's private key",
        found=f"Secret block {block}, but no Prefect server (PREFECT_API_URL)"
        if block
        else "none, and no Prefect server (PREFECT_API_URL)",
        remedy=f"Give --key-file FILE and its passphrase in {PASSPHRASE}, or --key-in-cluster; or "
        "write trust_anchor.key_file, or trust_anchor.custody: in-cluster, in the mesh's file.",
    )


def _will_keep_a_key(config: MeshConfig) -> bool:
    return keeps_key(read_snapshot(Mesh(Cluster.from_access(config.access), config), None))


def _ask(config: MeshConfig) -> MeshConfig:
    namespace = config.anchor_namespace
    typer.echo(
        "Where should the trust anchor's private key be kept? It signs the mesh's issuers, and "
        "rotations need it.\n"
        "  1  in a file on this machine, encrypted with a passphrase\n"
        f"  2  in Secret {namespace}/{ANCHOR_SECRET} of the cluster: anyone who may read Secrets "
        "there can sign identities",
        err=True,
    )
    try:
        if typer.prompt("Place", type=int, default=1, err=True) == 2:
            return _at(config, custody="in-cluster", secret_block=None)
        default = Path.cwd() / f"{config.name}-trust-anchor.pem"
        path = Path(typer.prompt("File", default=str(default), err=True)).expanduser().absolute()
        passphrase = find_passphrase(path)
    except (typer.Abort, EOFError):
        raise no_place(config) from None
    return _at(config, key_file=path, passphrase=passphrase, secret_block=None)


def _at(config: MeshConfig, **anchor: object) -> MeshConfig:
    fields = config.model_dump()
    fields["trust_anchor"] |= anchor
    try:
        return MeshConfig.model_validate(fields)
    except ValidationError as error:
        raise wrong_fields("trust_anchor", error, "a place for the key") from None


NO_KEY_LOCATION = (
    "the mesh's file does not say (trust_anchor.key_file, or custody: in-cluster), and there is no "
    "Prefect server (PREFECT_API_URL)"
)
"""Why the place of the key is unknown."""


def key_text(config: MeshConfig, server: str) -> str:
    """Says where the trust anchor's private key is after a run, and how to back it up.

    Args:
        server: the address of the Prefect server; empty if there is none.
    """
    from prefect_linkerd.tasks.trust_anchor import key_store

    if not server and not is_chosen(config):
        return (
            f"The place of the trust anchor's private key is unknown: {NO_KEY_LOCATION}. "
            "Rotations need it."
        )
    store = key_store(Mesh(Cluster.from_access(config.access), config))
    if store.load() is None:
        return (
            f"The trust anchor's private key is not in {store.where}: the anchor was adopted or "
            "provided without it. Rotations need it there."
        )
    return place_text(config, store.where, server)


def key_row(config: MeshConfig, cluster: Cluster, *, has_server: bool) -> str:
    """Says in one line where the configuration puts the key, and whether it is there.

    Does not check a Secret block, which only its server can do.
    """
    anchor = config.trust_anchor
    if not has_server and not is_chosen(config):
        return f"unknown: {NO_KEY_LOCATION}"
    if anchor.custody == "in-cluster":
        where = f"Secret/{config.anchor_namespace}/{ANCHOR_SECRET}"
        found = read_tls_secret(cluster, ANCHOR_SECRET, config.anchor_namespace)
        is_there = found is not None and found.private_key is not None
    elif anchor.key_file is not None:
        where, is_there = f"file {anchor.key_file}", anchor.key_file.expanduser().exists()
    else:
        block = anchor.secret_block or mesh_key(config.name, "trust-anchor")
        return f"Prefect Secret block {block}, on your Prefect server"
    return where if is_there else f"not there: {where}"


def place_text(config: MeshConfig, where: str, server: str) -> str:
    """Says where the key is, how to back it up, and which setting of a mesh file points there.

    Args:
        where: the place, as its key store names it.
        server: the address of the Prefect server, for a Secret block.
    """
    anchor = config.trust_anchor
    if anchor.custody == "in-cluster":
        namespace = config.anchor_namespace
        how = (
            f"Back it up: kubectl get secret {ANCHOR_SECRET} -n {namespace} -o yaml, and encrypt "
            "what that prints."
        )
        file = "trust_anchor: {custody: in-cluster}"
    elif anchor.key_file is not None:
        how = (
            "Back it up: copy the file off this machine, and keep its passphrase elsewhere; one is "
            "useless without the other."
        )
        file = f"trust_anchor: {{key_file: {anchor.key_file}}}"
    else:
        how = (
            f"It is in the database of {server}. Back up that database and the server's "
            "PREFECT_SERVER_ENCRYPTION_KEY."
        )
        file = ""
    text = f"The trust anchor's private key is in {where}. {how}"
    return f"{text}\nIn the mesh's file: {file}" if file else text
