"""The environment that helm runs in: it says where Helm keeps its files, and sets no flags.

Helm reads most of its flags from `HELM_*` variables, too, among them the API server, the token, the
namespace and the storage driver. Here those come only from the mesh's configuration.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

KEPT = frozenset(
    {
        "HELM_CACHE_HOME",
        "HELM_CONFIG_HOME",
        "HELM_CONTENT_CACHE",
        "HELM_DATA_HOME",
        "HELM_PLUGINS",
        "HELM_REGISTRY_CONFIG",
        "HELM_REPOSITORY_CACHE",
        "HELM_REPOSITORY_CONFIG",
    }
)
"""The variables that only name Helm's files and folders: registry log-ins, repositories, caches.

Source: https://helm.sh/docs/helm/helm/ and Helm's `pkg/cli/environment.go`; the content cache is
Helm 4's.
"""


def helm_environment(environment: Mapping[str, str], kubeconfig: Path | None) -> dict[str, str]:
    """The environment to run helm in.

    Args:
        environment: the caller's, such as `os.environ`.
        kubeconfig: the file for the cluster to work on; None if helm needs no cluster, so that it
            does not read the caller's file either.
    """
    kept = {k: v for k, v in environment.items() if not k.startswith("HELM_") or k in KEPT}
    return kept | {"KUBECONFIG": str(kubeconfig or os.devnull)}
