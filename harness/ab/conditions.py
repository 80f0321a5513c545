"""Conditions of the machine while an engine was timed, and the marks that make a launch suspect.

Marks explain a result and exclude nothing: dropping launches after seeing their conditions would choose the result.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

from harness.ab.records import TurnConditions
from harness.latency import conditions
from harness.latency.telemetry import read_gpus
from harness.machine import cores
from harness.nvml import open_nvml

MOST_OTHERS = 0.1  # share of our cores that other processes may keep busy; with two cores, a fifth of one core
MOST_CLOCK_CHANGE = 0.05  # share by which a clock may change within a launch


class Start(NamedTuple):
    """The beginning of a turn."""

    at_s: float
    before: conditions.Conditions


def start() -> Start:
    return Start(time.perf_counter(), conditions.read())


def since(begun: Start) -> TurnConditions:
    """The conditions from `begun` until now; the clocks are read now."""
    now = start()
    wall_s = now.at_s - begun.at_s
    clocks_mhz = [gpu.sm_mhz for gpu in read_gpus(*open_nvml()) if gpu.sm_mhz is not None]
    return TurnConditions(
        wall_s=wall_s,
        others_cores=conditions.others_cores(begun.before, now.before, wall_s),
        cores=len(cores()),
        load_average=now.before.load_average[0],
        cpu_mhz=conditions.cpu_mhz(),
        gpu_mhz=max(clocks_mhz, default=None),
    )


def marks(turns: Sequence[TurnConditions]) -> list[str]:
    """Reasons to suspect a launch, from its turns; empty for an undisturbed launch."""
    clocks = {"CPU": [turn.cpu_mhz for turn in turns], "GPU": [turn.gpu_mhz for turn in turns]}
    return [*_load_mark(turns), *(mark for name, clock in clocks.items() for mark in _clock_mark(name, clock))]


def _load_mark(turns: Sequence[TurnConditions]) -> list[str]:
    loads = [(turn.wall_s, turn.others_cores) for turn in turns if turn.others_cores is not None]
    total_s = sum(wall_s for wall_s, _ in loads)
    if not total_s:
        return []
    busy, cores = sum(wall_s * others_cores for wall_s, others_cores in loads) / total_s, turns[0].cores
    return [f"other processes kept {busy:.1f} of {cores} cores busy"] if busy > MOST_OTHERS * cores else []


def _clock_mark(name: str, clocks_mhz: Sequence[float | None]) -> list[str]:
    readings = [clock for clock in clocks_mhz if clock]
    if not readings or max(readings) <= min(readings) * (1 + MOST_CLOCK_CHANGE):
        return []
    return [f"the {name} clock ranged from {min(readings):,.0f} to {max(readings):,.0f} MHz"]
