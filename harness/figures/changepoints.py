"""Change points in a history of figures, from the piecewise constant fit with the lowest cost. Pure.

The cost is the sum of absolute deviations from each level's median plus a penalty for each level (the L1 Potts
functional, as in asv's step_detection), minimised exactly by dynamic programming. Deviations are absolute, so that a
single outlier does not become a level.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

LEAST_POINTS = 10  # fewer points do not show the noise
LEAST_LENGTH = 3  # fewest points of a level, so that a single outlier is in the minority
MOST_POINTS = 400  # older points are ignored, because the work grows with the cube
# Cost of a level, in units of the noise. At most 6% of histories without a change get a change point: 10 to 50 points
# with normal, lognormal or t noise of 3 degrees of freedom (simulated, docs/check.md).
PENALTY = 6.0

Values = np.ndarray[tuple[int], np.dtype[np.float64]]


class Level(NamedTuple):
    """Points `start` to `stop - 1` of a history, which scatter around one value."""

    start: int
    stop: int
    value: float  # median of the points


def levels(values: Sequence[float]) -> list[Level]:
    """Levels of a history, oldest first: a single level if nothing changed, an empty list for too few points."""
    if len(values) < LEAST_POINTS:
        return []
    skipped = max(len(values) - MOST_POINTS, 0)
    array = np.asarray(values[skipped:], dtype=np.float64)
    starts = best_starts(array, PENALTY * noise(array))
    stops = [*starts[1:], len(array)]
    return [
        Level(start + skipped, stop + skipped, float(np.median(array[start:stop])))
        for start, stop in zip(starts, stops, strict=True)
    ]


def noise(values: Values) -> float:
    """Median distance between successive values that differ: 0.95 standard deviations for normal noise.

    A few changes of level hardly affect it. Figures that repeat exactly, such as nDCG, have no noise; the distance is
    then the size of a typical change, which has to last for PENALTY points before it is marked.
    """
    distances = np.abs(np.diff(values))
    return float(np.median(distances[distances > 0])) if distances.any() else 0.0


def best_starts(values: Values, penalty: float) -> list[int]:
    """Index at which each level of the cheapest fit starts; ties go to the fit with fewer changes."""
    count = len(values)
    costs = deviations(values)
    best = [0.0] + [np.inf] * count  # lowest cost of the first 0, 1, ... points, penalties included
    last = [0] * (count + 1)  # start of the last level in that fit
    for stop in range(LEAST_LENGTH, count + 1):
        for start in range(stop - LEAST_LENGTH + 1):
            total = best[start] + costs[start, stop] + penalty
            if total < best[stop] - 1e-12 * abs(total):
                best[stop], last[stop] = total, start
    starts, stop = [], count
    while stop:
        stop = last[stop]
        starts.append(stop)
    return starts[::-1]


def deviations(values: Values) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Entry (start, stop): the sum of absolute deviations of values[start:stop] from their median.

    The sum is that of the upper half minus that of the lower half. It is infinite where a level would be too short.
    """
    count = len(values)
    costs = np.full((count, count + 1), np.inf)
    for length in range(LEAST_LENGTH, count + 1):
        ordered, half = np.sort(sliding_window_view(values, length), axis=1), length // 2
        starts = np.arange(count - length + 1)
        costs[starts, starts + length] = ordered[:, length - half :].sum(axis=1) - ordered[:, :half].sum(axis=1)
    return costs
