"""Linkerd's version names and their order. The facts of each are in `mesh.linkerd.facts`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import total_ordering
from typing import Literal

from prefect_linkerd.mesh.errors import InvalidInput

Channel = Literal["stable", "edge"]

_PATTERNS: Mapping[Channel, re.Pattern[str]] = {
    "stable": re.compile(r"stable-(\d+)\.(\d+)\.(\d+)$"),
    "edge": re.compile(r"edge-(\d+)\.(\d+)\.(\d+)$"),
}

OLDEST: Mapping[Channel, tuple[int, int, int]] = {"stable": (2, 11, 0), "edge": (23, 1, 1)}
"""The oldest release of each channel that these flows work with."""


@total_ordering
@dataclass(frozen=True)
class LinkerdVersion:
    """A Linkerd release, such as `stable-2.14.10` or `edge-26.8.3`.

    Versions of one channel are ordered by number. Across channels, stable comes before edge: except
    for a short overlap in 2023, stable releases are older than the edges supported here, and a mesh
    cannot go back from edge to stable.
    """

    channel: Channel
    numbers: tuple[int, int, int]

    @classmethod
    def parse(cls, text: str) -> LinkerdVersion:
        """Parses a version name.

        Raises:
            InvalidInput: it is not a version name, or older than the oldest supported version.
        """
        for channel, pattern in _PATTERNS.items():
            if match := pattern.match(text.strip()):
                version = cls(channel, (int(match[1]), int(match[2]), int(match[3])))
                oldest = cls(channel, OLDEST[channel])
                if version < oldest:
                    raise InvalidInput(
                        f"Linkerd version {text}",
                        expected=f"{oldest} or newer",
                        found="an older version",
                        remedy="Choose a newer release.",
                    )
                return version
        raise InvalidInput(
            f"Linkerd version {text!r}",
            expected="a name such as stable-2.14.10 or edge-26.8.3",
            found="another form",
            remedy="Write the channel, a dash and three numbers.",
        )

    @classmethod
    def find(cls, text: str) -> LinkerdVersion | None:
        """The version that a text names; None if `parse` refuses it."""
        try:
            return cls.parse(text)
        except InvalidInput:
            return None

    def __str__(self) -> str:
        return f"{self.channel}-{'.'.join(map(str, self.numbers))}"

    def __lt__(self, other: LinkerdVersion) -> bool:
        return (self.channel == "edge", self.numbers) < (other.channel == "edge", other.numbers)
