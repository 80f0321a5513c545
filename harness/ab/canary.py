"""The noise floor of a machine: the difference that it shows between an engine and itself, from a canary run."""

import math
from pathlib import Path

from harness.ab import result
from harness.ab.result import MetricResult, NoiseFloor
from harness.store import StoreError

FOLDER = "canary"


def read(folder: Path) -> NoiseFloor | None:
    """The noise floor from the complete canary run beside an A/B run; None without one."""
    try:
        canary = result.read(folder / FOLDER)
    except StoreError:
        return None
    arm = canary.setup.arms["A"]
    reached = {name: reach(metric) for name, metric in canary.metrics.items()}
    return NoiseFloor(arm.engine, arm.options, canary.records["A"].machine, reached)


def reach(metric: MetricResult) -> float | None:
    """Distance of an interval's farther end from 1, as a share: 0.01 for [0.995, 1.01]; None without an interval."""
    if metric.lo is None or metric.hi is None:
        return None
    return math.expm1(max(abs(math.log(metric.lo)), abs(math.log(metric.hi))))
