"""What helm sees of our environment: where Helm keeps its files, and nothing that steers it.

Helm takes a value for most of its flags from `HELM_*`, among them the API server, the token, the
namespace and the storage driver. Ours come from the mesh's configuration alone.
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
"""The variables that only name a file or folder of Helm's: registry log-ins, repositories, caches.

Source: https://helm.sh/docs/helm/helm/ and Helm's `pkg/cli/environment.go`; the content cache is
Helm 4's.
"""


def helm_environment(environment: Mapping[str, str], kubeconfig: Path | None) -> dict[str, str]:
    """The environment to run helm in.

    Args:
        environment: ours, such as `os.environ`.
        kubeconfig: the file of the cluster to work on; None where helm needs no cluster, so that
            it does not read the caller's either.
    """
    kept = {k: v for k, v in environment.items() if not k.startswith("HELM_") or k in KEPT}
    return kept | {"KUBECONFIG": str(kubeconfig or os.devnull)}
