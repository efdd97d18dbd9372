"""Linkerd's version names, what they order, and which charts a version is installed by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Literal

from prefect_linkerd.mesh.errors import InvalidInput

Channel = Literal["stable", "edge"]
Layout = Literal["one-chart", "crds-and-control-plane"]

_STABLE = re.compile(r"stable-(\d+)\.(\d+)\.(\d+)$")
_EDGE = re.compile(r"edge-(\d+)\.(\d+)\.(\d+)$")

FIRST_STABLE = (2, 11, 0)
FIRST_EDGE = (23, 1, 1)
# The last edge release that shipped linkerd-jaeger; its chart left the repository after it.
LAST_EDGE_WITH_JAEGER = (25, 8, 5)


@total_ordering
@dataclass(frozen=True)
class LinkerdVersion:
    """A Linkerd release, such as `stable-2.14.10` or `edge-26.8.3`.

    Versions of one channel are ordered by number. Across channels, stable comes before edge:
    every stable version supported here (2.11 to 2.14) is older than the edges supported here
    save for a short overlap in 2023, and there is no way back from edge to those.
    """

    channel: Channel
    numbers: tuple[int, int, int]

    @classmethod
    def parse(cls, text: str) -> LinkerdVersion:
        """Reads a version name.

        Raises:
            InvalidInput: it is not the name of a version that can be installed.
        """
        for channel, pattern, first in (
            ("stable", _STABLE, FIRST_STABLE),
            ("edge", _EDGE, FIRST_EDGE),
        ):
            if match := pattern.match(text.strip()):
                numbers = (int(match[1]), int(match[2]), int(match[3]))
                version = cls("stable" if channel == "stable" else "edge", numbers)
                if numbers < first:
                    raise InvalidInput(
                        f"Linkerd version {text}",
                        expected=f"{cls(version.channel, first)} or newer",
                        found="an older version",
                        remedy="Choose stable-2.11 to stable-2.14, or an edge.",
                    )
                return version
        raise InvalidInput(
            f"Linkerd version {text!r}",
            expected="a name such as stable-2.14.10 or edge-26.8.3",
            found="another form",
            remedy="Write the channel, a dash and three numbers.",
        )

    def __str__(self) -> str:
        return f"{self.channel}-{'.'.join(map(str, self.numbers))}"

    def __lt__(self, other: LinkerdVersion) -> bool:
        return (self.channel == "edge", self.numbers) < (other.channel == "edge", other.numbers)

    @property
    def minor(self) -> tuple[int, int]:
        """The two leading numbers: `(2, 14)` for stable-2.14.10."""
        return self.numbers[:2]

    def at_least(self, stable: tuple[int, int]) -> bool:
        """Whether this is the given stable minor or newer; every edge supported here is."""
        return self.channel == "edge" or self.minor >= stable

    @property
    def layout(self) -> Layout:
        """`linkerd2` was split into two charts in 2.12.

        Source: https://linkerd.io/2.12/tasks/upgrade/#upgrade-notice-stable-2120
        """
        return "crds-and-control-plane" if self.at_least((2, 12)) else "one-chart"

    @property
    def has_jaeger(self) -> bool:
        """Whether this version has a chart `linkerd-jaeger`."""
        return self.channel == "stable" or self.numbers <= LAST_EDGE_WITH_JAEGER
