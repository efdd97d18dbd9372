"""Which proxies a control plane supports: its own version's, and those of the one before.

Sources: https://linkerd.io/2.14/tasks/upgrade/#data-plane-vs-control-plane-version-skew and
https://linkerd.io/2-edge/tasks/upgrade/#edge-releases-and-data-plane-version-skew
"""

from __future__ import annotations

from prefect_linkerd.mesh.linkerd.version import LinkerdVersion

FIRST_EDGES: dict[int, tuple[int, int, int]] = {
    13: (23, 4, 1),
    14: (23, 8, 3),
    15: (24, 2, 4),
    16: (24, 8, 2),
    17: (24, 11, 8),
    18: (25, 4, 4),
    19: (25, 10, 7),
    20: (26, 7, 1),
}
"""The first edge of each Linkerd 2.x; later ones belong to it until the next.

Source: https://linkerd.io/releases/, and the tags `version-2.x` of linkerd2.
"""


def major_of(version: LinkerdVersion) -> int:
    """The x of the Linkerd 2.x that a release belongs to.

    Edges newer than the table count as the last version in it.
    """
    if version.channel == "stable":
        return version.minor[1]
    return max((x for x, first in FIRST_EDGES.items() if first <= version.numbers), default=12)


def skew_problem(control_plane: LinkerdVersion, proxy: LinkerdVersion) -> str | None:
    """Why a proxy is not supported by a control plane; None where it is."""
    ahead = major_of(control_plane) - major_of(proxy)
    if ahead > 1:
        return (
            f"it is of Linkerd 2.{major_of(proxy)}, and a control plane of "
            f"2.{major_of(control_plane)} supports proxies from 2.{major_of(control_plane) - 1} on"
        )
    if ahead < 0:
        return (
            f"it is of Linkerd 2.{major_of(proxy)}, newer than the control plane of "
            f"2.{major_of(control_plane)}, which is to be upgraded first"
        )
    return None
