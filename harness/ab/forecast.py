"""What it would take to know: the launch pairs that a verdict needs, from those that have been made. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.ab.records import Findings, LaunchPair, Metric
from harness.ab.verdict import request_slowdowns
from harness.figures.sequential import Looks, detectable, plan_looks
from harness.figures.shifts import Values

SEARCHED = 100_000  # launch pairs beyond which nobody measures
ENOUGH = 20  # launch pairs with which any number of metrics can be decided
FUTILE = 2  # a run ends early if even this many times the launch pairs that are left could not decide


class MetricForecast(NamedTuple):
    """What one metric needs for a verdict. Numbers of launch pairs are None if more than SEARCHED are needed."""

    spread: float  # standard deviation of a launch pair's slowdown, a logarithm
    for_pass: int | None  # if B is as fast as A
    for_verdict: int | None  # if B is as slow as it seems
    visible: float | None  # smallest slowdown, a share, that the most launch pairs show as a regression; None for none


Forecasts = Mapping[Metric, MetricForecast]


def forecast(findings: Findings, looks: Looks) -> dict[Metric, MetricForecast]:
    """The forecast for every metric that was measured in at least two launch pairs.

    A run that is too small for any end is judged by the looks of a larger one.
    """
    if looks.fewest is None:
        looks = plan_looks(ENOUGH, sum(finding.interval is not None for finding in findings.values()) or 1)
    return {
        metric: _needs(float(np.median(finding.slowdowns)), scale(finding.slowdowns), math.log1p(finding.margin), looks)
        for metric, finding in findings.items()
        if len(finding.slowdowns) > 1
    }


def first_forecast(launch_pair: LaunchPair, margin: float, looks: Looks) -> MetricForecast:
    """The forecast for p50 from one launch pair, whose rounds show only a part of the spread: it is too favourable."""
    rounds = np.array([np.median(block) for block in request_slowdowns(launch_pair)])
    value, spread = float(np.median(rounds)), math.sqrt(math.pi / 2 / len(rounds)) * scale(rounds)
    return _needs(value, spread, math.log1p(margin), looks)


def pairs_for_pass(forecasts: Forecasts) -> int | None:
    """Launch pairs for a pass, which needs every metric, if B is as fast as A."""
    needed = [metric.for_pass for metric in forecasts.values()]
    return None if None in needed else max((number for number in needed if number is not None), default=None)


def is_futile(forecasts: Forecasts, launch_pairs: int) -> bool:
    """Whether neither a pass of equal engines nor a verdict on what was seen is within FUTILE times `launch_pairs`."""
    seen = [metric.for_verdict for metric in forecasts.values()]
    needed = [number for number in (*seen, pairs_for_pass(forecasts)) if number is not None]
    return bool(forecasts) and min(needed, default=SEARCHED) > FUTILE * launch_pairs


def scale(values: Sequence[float] | Values) -> float:
    """Robust standard deviation: by the median distance from the median, or half of the sample's own if that is more.

    0.6745 is the median distance of the standard normal distribution. Wild launches, which the signed ranks bear, do
    not inflate the one; the other keeps it from being far too small by chance.
    """
    if len(values) < 2:
        return 0.0
    distance = float(np.median(np.abs(np.asarray(values) - np.median(values))))
    return max(distance / 0.6745, float(np.std(values, ddof=1)) / 2)


def _needs(value: float, spread: float, bound: float, looks: Looks) -> MetricForecast:
    lower, upper = detectable(looks)
    visible = bound + lower[looks.numbers[-1]] * spread
    return MetricForecast(
        spread=spread,
        for_pass=_pairs(bound, spread, upper),
        for_verdict=_pairs(abs(value - bound), spread, lower if value > bound else upper),
        visible=math.expm1(visible) if math.isfinite(visible) else None,
    )


def _pairs(distance: float, spread: float, shown: Mapping[int, float]) -> int | None:
    """Launch pairs with which a distance from the bound is shown in 80% of runs; beyond the last look by its square."""
    for number, multiple in shown.items():
        if multiple * spread <= distance:
            return number
    last = max(shown)
    needed = last * (shown[last] * spread / max(distance, 1e-9)) ** 2
    return 2 * math.ceil(needed / 2) if needed < SEARCHED else None
