"""Which proxies a control plane supports: those of its own minor version and of the previous one.

Sources: https://linkerd.io/2.14/tasks/upgrade/#data-plane-vs-control-plane-version-skew and
https://linkerd.io/2-edge/tasks/upgrade/#edge-releases-and-data-plane-version-skew
"""

from __future__ import annotations

from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion


def skew_problem(control_plane: LinkerdVersion, proxy: LinkerdVersion) -> str | None:
    """Why a control plane does not support a proxy; None if it does."""
    plane, of_proxy = release_facts(control_plane).series, release_facts(proxy).series
    if plane - of_proxy > 1:
        return (
            f"it is from Linkerd 2.{of_proxy}, and a control plane of 2.{plane} supports proxies "
            f"from 2.{plane - 1} on"
        )
    if plane < of_proxy:
        return (
            f"it is from Linkerd 2.{of_proxy}, newer than the control plane of 2.{plane}, which "
            "has to be upgraded first"
        )
    return None
