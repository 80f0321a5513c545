"""What else the machine did while an engine was timed, and which of it makes a launch suspect.

Marks explain and exclude nothing: to drop launches for what was seen afterwards is to choose a result.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.ab.records import Conditions

MOST_OTHERS = 0.1  # share of all cores that others may keep busy: on two cores, a fifth of one
MOST_CLOCK_CHANGE = 0.05
STAT, CPUINFO = Path("/proc/stat"), Path("/proc/cpuinfo")
# user nice system idle iowait irq softirq steal: proc(5). Stolen time is work of others, outside of this machine.
BUSY_FIELDS = (0, 1, 2, 5, 6, 7)


class Start(NamedTuple):
    at_s: float
    busy_s: float | None  # of all cores since boot
    own_s: float  # of this process and its threads


def start() -> Start:
    return Start(time.perf_counter(), _busy_s(), time.process_time())


def since(begun: Start) -> Conditions:
    """Everything of the time since `begun`; clocks as they are now."""
    now = start()
    wall_s = now.at_s - begun.at_s
    others = None
    if now.busy_s is not None and begun.busy_s is not None and wall_s > 0:
        others = max(0.0, (now.busy_s - begun.busy_s - (now.own_s - begun.own_s)) / wall_s)
    return Conditions(wall_s, others, os.cpu_count() or 1, _load_average(), _cpu_mhz(), _gpu_mhz())


def marks(turns: Sequence[Conditions]) -> list[str]:
    """What makes a launch suspect, from its turns; empty where nothing does."""
    clocks = {"CPU": [turn.cpu_mhz for turn in turns], "GPU": [turn.gpu_mhz for turn in turns]}
    return [*_load_mark(turns), *(mark for name, known in clocks.items() for mark in _clock_mark(name, known))]


def _load_mark(turns: Sequence[Conditions]) -> list[str]:
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


def _busy_s() -> float | None:
    try:
        fields = STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        return sum(int(fields[place]) for place in BUSY_FIELDS) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _cpu_mhz() -> float | None:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return max((float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")), default=None)


def _gpu_mhz() -> float | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        clocks = [float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)) for handle in handles]
    except pynvml.NVMLError:  # no driver, or one that does not answer
        return None
    return max(clocks, default=None)
