"""Hodges-Lehmann estimates with exact intervals, over launches. Pure; it knows no metric and no margin.

The paired design counts Walsh averages; the unpaired design counts the differences between launches of both sides. If
the true shift is `bound`, the number of values at or below `bound` is distributed as the signed-rank statistic or as
Mann-Whitney's U. A test against a bound and the interval therefore agree: p <= alpha exactly when the bound lies
outside the interval (Bauer 1972, JASA 67:687). Values equal to the bound count against a difference.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

POWER = 0.8
TRIED = np.geomspace(0.05, 20, 80)  # shifts, in standard deviations
RUNS = 300  # simulated for each of them: the standard error of a power of 80% is 2.3%
ALPHA = 0.05  # error rate of each end of an interval, and of the family of tests
Values = np.ndarray[tuple[int], np.dtype[np.float64]]


class Shift(NamedTuple):
    """Slowdown of B as the logarithm of a ratio. The ends are None if there are too few launches for ALPHA."""

    value: float  # Hodges-Lehmann estimate
    lo: float | None
    hi: float | None
    level: float | None  # confidence that the true value is above lo; also, on its own, that it is below hi
    p_slower: float  # one-sided, under the hypothesis that the true value is the bound or less


def paired(values: Sequence[float], bound: float) -> Shift:
    """Centre of the launch pairs' values: median of the Walsh averages, with the signed-rank interval (Tukey 1949)."""
    return _shift(walsh_averages(values), signed_rank(len(values)), bound)


def walsh_averages(values: Sequence[float]) -> Values:
    """The averages of any two values, each value with itself included."""
    array = np.asarray(values, dtype=np.float64)
    first, second = np.triu_indices(len(array))
    return np.asarray((array[first] + array[second]) / 2)


def unpaired(a: Sequence[float], b: Sequence[float], bound: float) -> Shift:
    """Shift from a to b: median of all differences, with the Mann-Whitney interval (Hodges and Lehmann 1963)."""
    differences = np.subtract.outer(np.asarray(b, dtype=np.float64), np.asarray(a, dtype=np.float64))
    return _shift(differences.ravel(), mann_whitney(len(a), len(b)), bound)


def signed_rank(launch_pairs: int) -> Values:
    """Probability of each value, 0 to n(n+1)/2, of the signed-rank statistic: the sum of the ranks with a plus sign."""
    probabilities = np.ones(1)
    for rank in range(1, launch_pairs + 1):
        probabilities = (np.pad(probabilities, (0, rank)) + np.pad(probabilities, (rank, 0))) / 2
    return probabilities


def mann_whitney(a: int, b: int) -> Values:
    """Probability of each value of U, 0 to a * b, by the recursion of Mann and Whitney (1947)."""
    counts = {(i, j): np.ones(1) for i in range(a + 1) for j in range(b + 1) if not (i and j)}
    for i in range(1, a + 1):
        for j in range(1, b + 1):
            last_of_a, last_of_b = counts[i - 1, j], counts[i, j - 1]  # by the side of the largest value
            counts[i, j] = np.pad(last_of_a, (j, i * j + 1 - j - len(last_of_a)))
            counts[i, j] += np.pad(last_of_b, (0, i * j + 1 - len(last_of_b)))
    return np.asarray(counts[a, b] / counts[a, b].sum())


@lru_cache(maxsize=64)
def visible_shift(a: int, b: int, alpha: float) -> float:
    """The true shift that a test at `alpha` finds in 80% of cases, in standard deviations of a normal launch.

    Simulated. Infinite if a and b launches can show no shift at this level, however large.
    """
    critical = int(np.searchsorted(np.cumsum(mann_whitney(a, b)), alpha, side="right"))
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(a, 1, RUNS)), rng.normal(size=(b, 1, RUNS)) + TRIED[:, None]
    below = sum((later - earlier <= 0).astype(np.int32) for later in second for earlier in first)
    found = (below < critical).mean(axis=1) >= POWER
    return float(TRIED[found].min(initial=math.inf))


def _shift(differences: Values, probabilities: Values, bound: float) -> Shift:
    differences, tails = np.sort(differences), np.cumsum(probabilities)
    outside = int(np.searchsorted(tails, ALPHA, side="right"))  # one more than the differences beyond each end
    p_slower = float(min(1.0, tails[np.count_nonzero(differences <= bound)]))
    value = float(np.median(differences))
    if outside == 0:
        return Shift(value, None, None, None, p_slower)
    level = 1 - float(tails[outside - 1])
    return Shift(value, float(differences[outside - 1]), float(differences[-outside]), level, p_slower)
