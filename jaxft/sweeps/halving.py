"""Successive halving (Jamieson and Talwalkar 2016, algorithm 1), with the budgets of Hyperband's inner loop (Li et al.
2018, algorithm 1): the best third of the points goes on, to three times as many steps."""

import math
from collections.abc import Mapping, Sequence

ETA = 3


def rungs(points: int) -> list[tuple[int, int]]:
    """(how many points, p) of each rung: they are trained up to the p-th part of their steps. The last p is 1."""
    last = 0
    while ETA ** (last + 1) <= points:
        last += 1
    return [(points // ETA**rung, ETA ** (last - rung)) for rung in range(last + 1)]


def promoted(points: Sequence[str], scores: Mapping[str, float | None], count: int, better: str) -> list[str]:
    """The `count` best points, in the order of `points`. Of equal ones the first goes on; those without a finite score
    go on only where others are too few."""
    sign = -1 if better == "max" else 1

    def cost(point: str) -> float:
        score = scores.get(point)
        return math.inf if score is None or not math.isfinite(score) else sign * score

    best = set(sorted(points, key=cost)[:count])
    return [point for point in points if point in best]
