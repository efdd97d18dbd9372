"""Pull secrets for a private registry."""

from __future__ import annotations

import base64
import json

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.own_objects import OwnObject, ensure_own, unless_matches
from prefect_linkerd.mesh.install.namespaces import namespaces
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Object
from prefect_linkerd.mesh.mesh import Mesh


def pull_secret(config: MeshConfig, namespace: str) -> Object | None:
    """The pull secret of a namespace; None if the registry needs no log-in."""
    registry = config.registry
    if registry is None or registry.username is None or registry.password is None:
        return None
    password = registry.password.get_secret_value()
    basic = base64.b64encode(f"{registry.username}:{password}".encode()).decode()
    # Credentials are for the host; a path is part of the images' names.
    host = registry.host.split("/")[0]
    entry = {"username": registry.username, "password": password, "auth": basic}
    content = json.dumps({"auths": {host: entry}})
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": registry.pull_secret,
            "namespace": namespace,
            "labels": dict(MADE_HERE),
        },
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(content.encode()).decode()},
    }


def pull_secrets(config: MeshConfig) -> list[Object]:
    """The pull secret of every namespace; empty if the registry needs no log-in."""
    made = (pull_secret(config, each["metadata"]["name"]) for each in namespaces(config))
    return [secret for secret in made if secret is not None]


def own_pull_secrets(config: MeshConfig) -> list[OwnObject]:
    """The pull secrets; somebody else's is used if it has the same log-in."""
    remedy = "Name another registry.pull_secret, or put the configured log-in into that one."
    return [
        OwnObject(secret, unless_matches({"type": secret["type"], "data": secret["data"]}, remedy))
        for secret in pull_secrets(config)
    ]


def ensure_pull_secrets(mesh: Mesh) -> None:
    """Creates the pull secrets, or updates them to the configured log-in.

    Raises:
        OwnershipConflict: one is somebody else's, with another log-in.
    """
    ensure_own(mesh.cluster, own_pull_secrets(mesh.config))
