"""Looks at growing data without false alarms: critical counts of the signed-rank statistic for each look.

At its bound a launch pair's value is as likely above as below, by the same distances: its sign is a fair coin,
independent of the distances. Over the looks, the statistic then depends only on the order in which the distances come.
Of all orders, the growing one gives every two looks their smallest correlation, and so the largest probability of a
crossing (Slepian 1962, Bell System Technical Journal 41:463, for the normal limit). There the rank of a value is its
number, the statistic is a Markov chain, and its crossings are computed exactly: the error rates hold however the noise
of a machine changes during a run. They are spent in proportion to the launch pairs (Lan and DeMets 1983, Biometrika
70:659; Kim and DeMets 1987, Biometrika 74:149). The intervals at the looks hold together (Jennison and Turnbull 1989,
JRSS B 51:305).
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harness.figures.shifts import ALPHA, walsh_averages

FIRST = 6  # launch pairs at the first look; all are even, so that both orders of starting are equally often
STEPS = ((20, 2), (40, 4), (math.inf, 8))  # launch pairs between looks, up to this many: a look late costs little
MOST = 200  # launch pairs of the largest design
POWER = 0.8
SHIFTS = np.geomspace(0.05, 10, 60)  # true distances that are tried, in standard deviations of a launch pair
RUNS = 300  # simulated for each of them: the standard error of a power of 80% is 2.3%


class Looks(NamedTuple):
    """A design: its looks, and how many Walsh averages lie outside each end of the interval at each of them.

    An end exists at a look if its number is at least 1. `lower` and `upper` map the launch pairs of a look to it.
    """

    numbers: Sequence[int]  # launch pairs at each look; the last is the most
    lower: Mapping[int, int]  # for all lower ends together, over the looks and the tests: 5%
    upper: Mapping[int, int]  # for the upper end of one test over the looks: 5%

    @property
    def fewest(self) -> int | None:
        """Fewest launch pairs with which a lower end exists; None if the design has none."""
        return next((number for number in self.numbers if self.lower[number]), None)


class RepeatedInterval(NamedTuple):
    """The slowdown of B as the logarithm of a ratio. An end is None if there are too few launch pairs for it."""

    value: float  # Hodges-Lehmann estimate
    lo: float | None
    hi: float | None


def at_look(values: Sequence[float], looks: Looks) -> RepeatedInterval:
    """Estimate and interval at a look; without ends if the number of values is not one of the looks."""
    averages = np.sort(walsh_averages(values))
    below, above = looks.lower.get(len(values), 0), looks.upper.get(len(values), 0)
    return RepeatedInterval(
        value=float(np.median(averages)),
        lo=float(averages[below - 1]) if below else None,
        hi=float(averages[-above]) if above else None,
    )


@lru_cache(maxsize=8)
def plan_looks(most: int, tests: int) -> Looks:
    """The looks at 6, 8, 10, ... and `most` launch pairs; fewer than 6 launch pairs have one look.

    5% are spent by the lower ends of all tests together, and 5% by each upper end.
    """
    numbers, number = [], FIRST
    while number < most:
        numbers.append(number)
        number += next(step for end, step in STEPS if number < end)
    numbers.append(most)
    return Looks(numbers, _outside(numbers, ALPHA / tests), _outside(numbers, ALPHA))


def detectable(looks: Looks) -> tuple[Mapping[int, float], Mapping[int, float]]:
    """For lower and upper ends: the true distance from a bound that is shown up to each look in 80% of runs.

    In standard deviations of a normal launch pair; infinite if no look up to this one can show a distance. Simulated.
    """
    lower, upper = (_detectable(tuple(looks.numbers), tuple(ends.values())) for ends in (looks.lower, looks.upper))
    return lower, upper


@lru_cache(maxsize=16)
def _detectable(numbers: Sequence[int], outside: Sequence[int]) -> dict[int, float]:
    values = np.random.default_rng(0).normal(size=(numbers[-1], 1, RUNS)) + SHIFTS[:, None]
    below, shown = np.zeros((len(SHIFTS), RUNS), dtype=np.int32), np.zeros((len(SHIFTS), RUNS), dtype=bool)
    found, counts = {}, dict(zip(numbers, outside, strict=True))
    for index, last in enumerate(values):
        for value in values[: index + 1]:
            below += value + last <= 0
        if index + 1 in counts:
            shown |= below < counts[index + 1]
            enough = SHIFTS[shown.mean(axis=1) >= POWER]
            found[index + 1] = float(enough.min(initial=math.inf))
    return found


def fewest_launch_pairs(tests: int) -> int:
    """Fewest launch pairs n with which a run of n can show a regression on one of `tests` metrics: tests 2^-n <= 5%."""
    return math.ceil(math.log2(tests / ALPHA))


def _outside(numbers: Sequence[int], alpha: float) -> dict[int, int]:
    """The largest counts of Walsh averages whose crossing spends at most alpha * n / n_max up to each look n."""
    most = numbers[-1]
    going = np.zeros(most * (most + 1) // 2 + 1)  # probability of each count in runs that have not crossed
    going[0], used, outside = 1.0, 0.0, {}
    for number in range(1, most + 1):
        going[number:] = (going[number:] + going[:-number]) / 2
        going[:number] /= 2
        if number in numbers:
            crossing = np.cumsum(going)
            outside[number] = int(np.searchsorted(crossing, alpha * number / most - used, side="right"))
            if outside[number]:
                used += float(crossing[outside[number] - 1])
                going[: outside[number]] = 0
    return outside
