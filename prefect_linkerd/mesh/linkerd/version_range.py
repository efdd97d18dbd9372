"""Version constraints as charts and people write them: `>=1.21.0-0 <1.36`."""

from __future__ import annotations

import re

import semver

_COMPARATOR = re.compile(r"\s*(>=|<=|!=|>|<|=|)\s*v?(\d+(?:\.\d+)*(?:-[0-9A-Za-z.-]+)?)\s*,?")


def admits(constraint: str, version: str) -> bool | None:
    """Whether a constraint admits a version; None if either cannot be parsed.

    Understands comparators joined by space, comma or `||`. Only the first three numbers of the
    version count.
    """
    match = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version)
    if match is None:
        return None
    actual = semver.Version(int(match[1]), int(match[2]), int(match[3] or 0))
    if not constraint.strip():
        return True
    verdicts: list[bool] = []
    for alternative in constraint.split("||"):
        position, verdict = 0, True
        while position < len(alternative.rstrip()):
            found = _COMPARATOR.match(alternative, position)
            if found is None:
                return None
            bound = semver.Version.parse(found[2], optional_minor_and_patch=True)
            # `-0` in a lower bound only says that its pre-releases are allowed.
            bound = bound.replace(prerelease=None)
            operator = found[1] or "="
            verdict = (
                verdict
                and {
                    ">=": actual >= bound,
                    "<=": actual <= bound,
                    ">": actual > bound,
                    "<": actual < bound,
                    "=": actual == bound,
                    "!=": actual != bound,
                }[operator]
            )
            position = found.end()
        verdicts.append(verdict)
    return any(verdicts)


def is_constraint(text: str) -> bool:
    """Whether a text is a constraint that `admits` understands."""
    return admits(text, "1.0.0") is not None
