"""The state of the machine before and after a measurement. A value that cannot be read is None, never zero."""

import os
import resource
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import psutil

from harness import linux
from harness.machine import cores

Value = TypeVar("Value")


class Conditions(NamedTuple):
    """One reading. The times and events are totals since the start; a measurement is described by their increase."""

    load_average: tuple[float, float, float]  # over 1, 5 and 15 minutes
    memory_available_gib: float
    busy_s: float | None  # CPU time of all processes on the cores that we may use, including stolen time
    own_s: float  # CPU time of this process and its descendants
    cpu_limited_s: float | None  # time that the container has waited because of its CPU limit
    heat_events: int | None  # how many times heat has slowed one of our cores down


def read() -> Conditions:
    return Conditions(
        load_average=os.getloadavg(),
        memory_available_gib=round(psutil.virtual_memory().available / 2**30, 1),
        busy_s=_busy_s(),
        own_s=_own_s(),
        cpu_limited_s=linux.cpu_limited_s(),
        heat_events=linux.heat_events(cores()),
    )


def others_cores(before: Conditions, after: Conditions, seconds: float) -> float | None:
    """Mean number of cores that other programs kept busy between the two readings."""
    if before.busy_s is None or after.busy_s is None or seconds <= 0:
        return None
    return max((after.busy_s - before.busy_s) - (after.own_s - before.own_s), 0.0) / seconds


def cpu_mhz() -> float | None:
    """The clock of the fastest of our cores; None if the system does not report it, as on Apple silicon."""
    try:
        clocks = psutil.cpu_freq(percpu=True)
    except (AttributeError, NotImplementedError, OSError, RuntimeError):  # depends on the system
        return None
    ours = of_our_cores(clocks) or clocks  # macOS has one clock for all cores
    return max((clock.current for clock in ours if clock.current), default=None)


def _busy_s() -> float | None:
    """Time of our cores without idling, waiting for disks and guest time, which user time includes (proc_stat(5))."""
    ours = of_our_cores(psutil.cpu_times(percpu=True))
    if ours is None:
        return None
    not_busy = ("idle", "iowait", "guest", "guest_nice")
    return sum(sum(times) - sum(getattr(times, name, 0.0) for name in not_busy) for times in ours)


def of_our_cores(values: Sequence[Value]) -> list[Value] | None:
    """The values of the cores that we may use, from psutil's list for all cores that are online.

    None if some cores are offline, because psutil's list then has no gaps for them.
    """
    ours = cores()
    if len(ours) == len(values):
        return list(values)
    if len(values) != os.sysconf("SC_NPROCESSORS_CONF") or ours[-1] >= len(values):
        return None
    return [values[core] for core in ours]


def _own_s() -> float:
    """CPU time of this process, of ended children and of running descendants, in which engines may work."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    running_s = sum(map(_used_s, psutil.Process().children(recursive=True)))
    return sum(usage.ru_utime + usage.ru_stime for usage in used) + running_s


def _used_s(process: psutil.Process) -> float:
    """CPU time of a process and of its ended children."""
    try:
        times = process.cpu_times()
    except psutil.Error:  # the process has ended, or it belongs to another user
        return 0.0
    return times.user + times.system + times.children_user + times.children_system
