"""Linux files that psutil does not read: limits of control groups, thermal throttling, the CPU's governor and model.

Every function returns None if its file is missing, on another system or because a container hides it.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")


class ContainerLimits(NamedTuple):
    """The container's limits; None if a resource has no limit."""

    cpu_limit_cores: float | None
    memory_limit_gib: float | None


def limits(root: Path = ROOT) -> ContainerLimits:
    """The tightest limits of this process's control groups, of version 2 or 1."""
    cores, memory_gib = [], []
    for folder in _control_groups(root):
        quota, _, period = (_text(folder / "cpu.max") or "").partition(" ")
        quota = quota or _text(folder / "cpu.cfs_quota_us") or ""
        period = period or _text(folder / "cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit():  # "max" and -1 stand for no limit
            cores.append(int(quota) / int(period))
        memory = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes") or ""
        if memory.isdigit() and int(memory) < 2**60:  # version 1 writes a number near 2^63 for no limit
            memory_gib.append(round(int(memory) / 2**30, 1))
    return ContainerLimits(min(cores, default=None), min(memory_gib, default=None))


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups. A container often sees its own group as the root."""
    mounted = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield mounted / controller
            yield mounted / controller / path.lstrip("/")


def cpu_limited_s(root: Path = ROOT) -> float | None:
    """Seconds that the container has waited because of its CPU limit.

    The files hold microseconds in version 2 and nanoseconds in version 1.
    """
    for file in ("sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu/cpu.stat"):
        values = dict(line.split() for line in _lines(root / file) if len(line.split()) == 2)
        if "throttled_usec" in values:
            return int(values["throttled_usec"]) / 1e6
        if "throttled_time" in values:
            return int(values["throttled_time"]) / 1e9
    return None


def heat_events(cores: Collection[int], root: Path = ROOT) -> int | None:
    """How many times heat has slowed these cores down since the machine started."""
    file = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
    counts = [_text(root / file.format(core)) for core in cores]
    readings = [int(count) for count in counts if count]
    return sum(readings) if readings else None


def governor(root: Path = ROOT) -> str | None:
    """The policy that sets the CPU's clock, such as "performance" or "powersave"."""
    return _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def cpu_model(root: Path = ROOT) -> str | None:
    lines = _lines(root / "proc/cpuinfo")
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _lines(path: Path) -> Sequence[str]:
    return (_text(path) or "").splitlines()
