"""How far counts may differ by chance: the bound that smoke tests and gates use.

Requests are assumed to be independent. The Chernoff bound in its relative-entropy form holds for
every total, however small: at a true share `p`, a count as far off as `k` of `n` has a probability
of at most `2 exp(-n * KL(k/n || p))`.
Source: Hoeffding, Probability inequalities for sums of bounded random variables (1963), th. 1.
"""

from __future__ import annotations

import math

FALSE_ALARM = 1e-6
"""The default limit for how likely chance alone makes a judgement wrong."""

HALVINGS = 50
"""Steps of a bisection, to the last digit of a float."""


def is_plausible(count: int, total: int, share: float, false_alarm: float) -> bool:
    """Whether `count` of `total` independent requests is plausible at a true `share`."""
    if total == 0:
        return False
    if share <= 0 or share >= 1:
        return count == round(share) * total
    return total * _relative_entropy(count / total, share) <= math.log(2 / false_alarm)


def _relative_entropy(q: float, p: float) -> float:
    left = q * math.log(q / p) if q > 0 else 0.0
    right = (1 - q) * math.log((1 - q) / (1 - p)) if q < 1 else 0.0
    return left + right


def plausible_counts(total: int, share: float, false_alarm: float) -> tuple[int, int]:
    """The least and the most requests that are plausible at a share."""
    around = round(total * share)
    low, high = around, around
    while low > 0 and is_plausible(low - 1, total, share, false_alarm):
        low -= 1
    while high < total and is_plausible(high + 1, total, share, false_alarm):
        high += 1
    return low, high


def plausible_shares(count: int, total: int, false_alarm: float) -> tuple[float, float]:
    """The lowest and the highest share at which `count` of `total` is plausible.

    Without requests every share is plausible: 0 to 1.
    """
    if total == 0:
        return 0.0, 1.0
    observed = count / total

    def furthest(end: float) -> float:
        if is_plausible(count, total, end, false_alarm):
            return end
        inside, outside = observed, end
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            if is_plausible(count, total, middle, false_alarm):
                inside = middle
            else:
                outside = middle
        return outside

    return furthest(0.0), furthest(1.0)
