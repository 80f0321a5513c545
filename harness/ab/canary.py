"""The noise floor: the difference that this machine shows where there is none, from a run of A against A."""

import math
from pathlib import Path

from harness.ab import result
from harness.ab.result import MetricResult, NoiseFloor
from harness.store import StoreError

FOLDER = "canary"


def read(folder: Path) -> NoiseFloor | None:
    """The noise floor from the complete canary run beside an A/B run; None if there is no such run."""
    try:
        canary = result.read(folder / FOLDER)
    except StoreError:
        return None
    arm = canary.setup.arms["A"]
    reached = {name: reach(metric) for name, metric in canary.metrics.items()}
    return NoiseFloor(arm.engine, arm.options, canary.records["A"].machine, reached)


def reach(metric: MetricResult) -> float | None:
    """Distance of an interval's further end from no change, as a share: 0.01 for [0.995, 1.01]; None without one."""
    if metric.lo is None or metric.hi is None:
        return None
    return math.expm1(max(abs(math.log(metric.lo)), abs(math.log(metric.hi))))
