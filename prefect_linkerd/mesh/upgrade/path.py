"""Which Linkerd version can follow which: one stable minor at a time, then edge, never back.

Source: https://linkerd.io/2.14/tasks/upgrade/#upgrade-paths
"""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.config.model import UpgradePolicy
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.linkerd.facts import LAST_STABLE_MINOR, skipped_minors
from prefect_linkerd.mesh.linkerd.version import Channel, LinkerdVersion
from prefect_linkerd.mesh.linkerd.version_range import admits


def path_problem(current: LinkerdVersion, target: LinkerdVersion) -> tuple[str, str] | None:
    """Why the target cannot follow the current version, and the remedy; None if it can."""
    if target < current:
        if current.channel != target.channel:
            return (
                f"{current} is newer than every stable release: there is no way back from edge",
                "Choose a newer edge release.",
            )
        return (
            f"it is older than {current}, and a downgrade is not supported",
            f"Choose {current} or a newer release. A failed upgrade rolls back by itself.",
        )
    skipped = skipped_minors(current, target)
    if not skipped:
        return None
    return (
        f"it skips {', '.join(skipped)}: stable minors are upgraded one at a time, and edge "
        f"follows {LAST_STABLE_MINOR}",
        f"Upgrade to a {skipped[0]} release first.",
    )


def wants(policy: UpgradePolicy, current: LinkerdVersion, target: LinkerdVersion) -> bool:
    """Whether the policy's channel and constraint admit a release as an upgrade's target.

    The channel is the current version's unless the policy sets one.
    """
    channel: Channel = policy.channel or current.channel
    numbers = ".".join(map(str, target.numbers))
    return target.channel == channel and admits(policy.constraint or "", numbers) is True


def newest_hop(
    policy: UpgradePolicy, current: LinkerdVersion, released: Iterable[LinkerdVersion]
) -> LinkerdVersion:
    """The newest release that the policy wants and the mesh can upgrade to; else its own version.

    If the policy's channel is edge and the mesh's is stable, the stable releases on the way count.

    Raises:
        InvalidInput: no release that the policy wants can be reached in one step.
    """
    known = sorted(set(released))
    is_on_the_way = policy.channel == "edge" and current.channel == "stable"
    wanted = [
        version
        for version in known
        if version > current
        and (wants(policy, current, version) or (is_on_the_way and version.channel == "stable"))
    ]
    reachable = [version for version in wanted if path_problem(current, version) is None]
    if reachable:
        return reachable[-1]
    if wanted:
        reason, remedy = path_problem(current, wanted[0]) or ("", "")
        raise InvalidInput(
            f"Linkerd version {wanted[0]}",
            expected=f"a release that can follow {current}",
            found=reason,
            remedy=remedy,
        )
    return current
