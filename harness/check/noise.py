"""What a machine's own noise hides from a check: from day to day, by the history of a baseline, and between launches.

The launches of two sides were made at two times. What the machine did between them looks like a change of the engine,
and no number of launches tells the two apart. The saves of a baseline do: they show by how much the machine's times
change from one save to the next.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from harness import machine
from harness.ab.records import Metric
from harness.check import sides
from harness.check.baselines import BaselineEntry
from harness.check.findings import CheckRow
from harness.check.launches import TimedLaunch
from harness.check.sides import CheckSide, Launches
from harness.figures.shifts import ALPHA

FEWEST_SAVES = 5  # with fewer, the largest of the few changes decides
MOST_SAVES = 20  # the newest saves that are read
NORMAL_MEDIAN = 0.6745  # median distance from the mean of a normal distribution with standard deviation 1


class DayNoise(NamedTuple):
    """How much the times of a machine change from save to save, beyond what their launches explain."""

    saves: int
    deviation: float  # standard deviation of a day, a logarithm

    @property
    def allowance(self) -> float:
        """What two days may differ by, a logarithm: the difference has twice the variance; 97.5% on each side.

        95% would be enough if the deviation were known and one metric were tested: simulated checks of three then raise
        an alarm in up to 7% of cases, and with 97.5% in at most 4%.
        """
        return float(stats.t.ppf(1 - ALPHA / 2, self.saves - 1)) * math.sqrt(2) * self.deviation


NoiseKey = tuple[str, Metric]  # subject and metric
DayNoises = Mapping[NoiseKey, DayNoise]


def of_history(entries: Sequence[BaselineEntry], side: CheckSide) -> dict[NoiseKey, DayNoise]:
    """The noise of every subject and metric of `side` that enough saves recorded, on its machine and with its work.

    Raises StoreError for a save that cannot be read.
    """
    saves: dict[NoiseKey, list[list[float]]] = {}
    for entry in entries[-MOST_SAVES:]:
        for key, values in _of_one_save(sides.read(entry.folders).timed, side.timed):
            saves.setdefault(key, []).append(values)
    return {key: between(values) for key, values in saves.items() if len(values) >= FEWEST_SAVES}


def between(saves: Sequence[Sequence[float]]) -> DayNoise:
    """The noise between saves, oldest first, each of which has the logarithm of a time for every launch.

    The median distance of neighbours bears changes of the engine at a few of the saves. The part that the spread of the
    launches explains is taken off: the variance of a median is pi / 2n times that of a launch.
    """
    medians = [float(np.median(values)) for values in saves]
    step = float(np.median(np.abs(np.diff(medians)))) / NORMAL_MEDIAN
    spreads = [float(np.var(values, ddof=1)) * math.pi / (2 * len(values)) for values in saves if len(values) > 1]
    own = float(np.median(spreads)) if spreads else 0.0
    return DayNoise(len(saves), math.sqrt(max(0.0, step**2 / 2 - own)))


def _of_one_save(save: Launches, wanted: Launches) -> Iterator[tuple[NoiseKey, list[float]]]:
    """Logarithms of the times of the launches that are of the same work on the same machine as the wanted ones."""
    for subject, launches in wanted.items():
        like = [launch for launch in save.get(subject, ()) if _alike(launch, launches[0])]
        for metric in launches[0].times if like else ():
            seconds = [launch.times[metric].seconds for launch in like]
            if None not in seconds:
                yield (subject, metric), [math.log(value) for value in seconds if value is not None]


def _alike(launch: TimedLaunch, wanted: TimedLaunch) -> bool:
    return not launch.invalid and launch.work == wanted.work and not machine.differences(launch.machine, wanted.machine)


def notes(rows: Sequence[CheckRow], launches: tuple[int, int], saves: int | None) -> Iterator[str]:
    """What the launches of the sides cannot show, and what is known of the machine's days.

    `saves` is the number in the baseline's history; None if the baseline is a folder.
    """
    tested = [row for row in rows if row.p is not None]
    for subject in dict.fromkeys(row.subject for row in tested):
        ours = [row for row in tested if row.subject == subject]
        seen = [f"{row.metric} {row.visible:.1%}" for row in ours if row.visible is not None]
        if seen:
            with_ = " and ".join(map(str, launches))
            yield f"{subject}: with {with_} launches, a slowdown under {', '.join(seen)} can go unseen"
        days = [f"{row.metric} {row.day:.1%}" for row in ours if row.day is not None]
        if days:
            yield f"{subject}: two days of this machine may differ by {', '.join(days)}, which is allowed for"
    if any(row.day is None for row in tested):
        known = f"this baseline has {saves}" if saves is not None else "save a baseline"
        yield (
            f"how much two days of this machine differ is unknown, and counts as the engine's: {FEWEST_SAVES} saves of "
            f"the same work tell it; {known}"
        )
