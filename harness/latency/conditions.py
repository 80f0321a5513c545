"""What else the machine did: read before and after a measurement. What cannot be read is None, never zero."""

import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ROOT = Path("/")


class Conditions(NamedTuple):
    """Totals since the machine or the container started; a measurement is described by their increase."""

    load_average: tuple[float, float, float]  # of 1, 5 and 15 minutes
    memory_available_gib: float | None
    busy_s: float | None  # CPU time of everything on the cores that we may use, stolen time included
    own_s: float  # CPU time of this process and of all that it started
    cpu_limited_s: float | None  # time in which the container's CPU limit made it wait
    heat_events: int | None  # times that a core slowed down against heat


def read(root: Path = ROOT) -> Conditions:
    return Conditions(
        load_average=os.getloadavg(),
        memory_available_gib=_memory_available_gib(root),
        busy_s=_busy_s(root),
        own_s=_own_s(root),
        cpu_limited_s=_cpu_limited_s(root),
        heat_events=_heat_events(root),
    )


def others_cores(before: Conditions, after: Conditions, seconds: float) -> float | None:
    """Cores that other programs kept busy on average between the two."""
    if before.busy_s is None or after.busy_s is None or seconds <= 0:
        return None
    return max((after.busy_s - before.busy_s) - (after.own_s - before.own_s), 0.0) / seconds


def cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_mhz(root: Path = ROOT) -> float | None:
    """Clock of the fastest of our cores."""
    policy = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
    found = [_number(root / policy.format(core)) for core in cores()]
    known = [khz / 1e3 for khz in found if khz is not None]
    if not known:
        lines = _lines(root / "proc/cpuinfo")
        known = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return max(known, default=None)


def _busy_s(root: Path) -> float | None:
    """Of /proc/stat: user, nice, system, irq, softirq and steal of our cores. Guest time is within user time."""
    ours = {f"cpu{core}" for core in cores()}
    ticks = [line.split()[1:9] for line in _lines(root / "proc/stat") if line.partition(" ")[0] in ours]
    if not ticks:
        return None
    idle, waiting = 3, 4
    return (
        sum(int(value) for each in ticks for place, value in enumerate(each) if place not in (idle, waiting))
        / TICKS_PER_S
    )


def _own_s(root: Path) -> float:
    """Of this process, of ended children, and of those that still run: engines work in them."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) + sum(_descendants_s(root).values())


def _descendants_s(root: Path) -> dict[int, float]:
    parents: dict[int, int] = {}
    used_s: dict[int, float] = {}
    for path in (root / "proc").glob("[0-9]*/stat"):
        fields = _text(path).rpartition(")")[2].split()  # a command's name may hold blanks and brackets
        if fields:
            parents[int(path.parent.name)] = int(fields[1])
            used_s[int(path.parent.name)] = sum(map(int, fields[11:15])) / TICKS_PER_S
    found, left = dict[int, float](), [os.getpid()]
    while left:
        parent = left.pop()
        children = [pid for pid, its_parent in parents.items() if its_parent == parent]
        found |= {pid: used_s[pid] for pid in children}
        left += children
    return found


def _memory_available_gib(root: Path) -> float | None:
    kib = [int(line.split()[1]) for line in _lines(root / "proc/meminfo") if line.startswith("MemAvailable:")]
    return round(kib[0] / 2**20, 1) if kib else None


def _cpu_limited_s(root: Path) -> float | None:
    """Of the cgroup's cpu.stat: version 2 counts microseconds, version 1 nanoseconds."""
    for place in ("sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu/cpu.stat"):
        values = dict(line.split() for line in _lines(root / place) if len(line.split()) == 2)
        if "throttled_usec" in values:
            return int(values["throttled_usec"]) / 1e6
        if "throttled_time" in values:
            return int(values["throttled_time"]) / 1e9
    return None


def _heat_events(root: Path) -> int | None:
    count = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
    found = [_number(root / count.format(core)) for core in cores()]
    known = [int(events) for events in found if events is not None]
    return sum(known) if known else None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _lines(path: Path) -> Sequence[str]:
    return _text(path).splitlines()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system, or a process that has ended meanwhile
        return ""
