"""What else the machine did while an engine was timed, and when that makes a launch suspect.

Marks explain and exclude nothing: to drop launches for what was seen afterwards is to choose a result.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

from harness.ab.records import TurnConditions
from harness.latency import conditions
from harness.latency.telemetry import read_gpus
from harness.machine import cores
from harness.nvml import open_nvml

MOST_OTHERS = 0.1  # share of our cores that other processes may keep busy: on two cores, a fifth of one
MOST_CLOCK_CHANGE = 0.05


class Start(NamedTuple):
    """The beginning of a turn."""

    at_s: float
    before: conditions.Conditions


def start() -> Start:
    return Start(time.perf_counter(), conditions.read())


def since(begun: Start) -> TurnConditions:
    """The conditions from `begun` until now; the clocks are those of this moment."""
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
    """Reasons to suspect a launch, from its turns; empty where there are none."""
    clocks = {"CPU": [turn.cpu_mhz for turn in turns], "GPU": [turn.gpu_mhz for turn in turns]}
    return [*_load_mark(turns), *(mark for name, clock in clocks.items() for mark in _clock_mark(name, clock))]


def _load_mark(turns: Sequence[TurnConditions]) -> list[str]:
    known = [(turn.wall_s, turn.others_cores) for turn in turns if turn.others_cores is not None]
    total_s = sum(wall_s for wall_s, _ in known)
    if not total_s:
        return []
    others, cores = sum(wall_s * busy for wall_s, busy in known) / total_s, turns[0].cores
    return [f"other processes kept {others:.1f} of {cores} cores busy"] if others > MOST_OTHERS * cores else []


def _clock_mark(name: str, clocks_mhz: Sequence[float | None]) -> list[str]:
    known = [clock for clock in clocks_mhz if clock]
    if not known or max(known) <= min(known) * (1 + MOST_CLOCK_CHANGE):
        return []
    return [f"the {name} clock went from {min(known):,.0f} to {max(known):,.0f} MHz"]
