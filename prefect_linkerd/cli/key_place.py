"""Where does a run keep the trust anchor's private key? Chosen before it, named after it."""

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
    """Whether the mesh says where the key is kept, other than on a Prefect server."""
    anchor = config.trust_anchor
    return anchor.custody == "in-cluster" or anchor.key_file is not None


def with_place(config: MeshConfig, flow: str) -> MeshConfig:
    """The mesh with a place for the key, asked for where it has none, needs one, and can be asked.

    For runs without a Prefect server.

    Raises:
        InvalidInput: there is no place, and nobody to ask; nothing was changed.
    """
    if is_chosen(config) or (flow == "bootstrap" and not _will_keep_a_key(config)):
        return config
    if not sys.stdin.isatty():
        raise no_place(config)
    return _ask(config)


def no_place(config: MeshConfig) -> InvalidInput:
    """What is said where nobody can be asked."""
    block = config.trust_anchor.secret_block
    return InvalidInput(
        f"mesh {config.name}",
        expected="a place for the trust anchor's private key",
        found=f"Secret block {block}, but no Prefect server of yours (PREFECT_API_URL)"
        if block
        else "none, and no Prefect server of yours (PREFECT_API_URL)",
        remedy=f"Give --key-file FILE and its passphrase in {PASSPHRASE}, or --key-in-cluster; or "
        "write trust_anchor.key_file, or trust_anchor.custody: in-cluster, in the mesh's file.",
    )


def _will_keep_a_key(config: MeshConfig) -> bool:
    return keeps_key(read_snapshot(Mesh(Cluster.from_access(config.access), config), None))


def _ask(config: MeshConfig) -> MeshConfig:
    namespace = config.anchor_namespace
    typer.echo(
        "Where is the trust anchor's private key to be kept? It signs every identity of the mesh, "
        "and rotations need it.\n"
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


NOT_SAID = (
    "the mesh's file does not say (trust_anchor.key_file, or custody: in-cluster), and there is no "
    "Prefect server (PREFECT_API_URL)"
)
"""Where the key is, of a mesh with none of the places."""


def key_words(config: MeshConfig, server: str) -> str:
    """Where the trust anchor's private key is after a run, and how to back it up.

    Args:
        server: the address of the Prefect server, if there is one.
    """
    from prefect_linkerd.tasks.trust_anchor import key_store

    if not server and not is_chosen(config):
        return f"Where the trust anchor's private key is, {NOT_SAID}. Rotations need it."
    store = key_store(Mesh(Cluster.from_access(config.access), config))
    if store.load() is None:
        return (
            f"The trust anchor's private key is not in {store.where}: the anchor was there, or "
            "provided, without it. Rotations need it where it is."
        )
    return place_words(config, store.where, server)


def key_row(config: MeshConfig, cluster: Cluster, *, has_server: bool) -> str:
    """Where the configuration says that the key is, and whether it is there, in one line.

    Whether a Secret block is there only its server knows.
    """
    anchor = config.trust_anchor
    if not has_server and not is_chosen(config):
        return f"unknown: {NOT_SAID}"
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


def place_words(config: MeshConfig, where: str, server: str) -> str:
    """Where the key is kept, how to back it up, and what a mesh file says so that it is found.

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
