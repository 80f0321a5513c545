"""What a result was made on: the parts of the machine and the versions that can change a score or a time."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path("/")
PROJECT = Path(__file__).parents[1]

# distributions whose version can change a score, a candidate or a measure
PACKAGES = (
    "crispbench",
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "numpy",
    "scipy",
    "bm25s",
    "PyStemmer",
    "ir-measures",
    "pytrec-eval-terrier",
    "mteb",
    "beir",
    "datasets",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that matter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """CPU, cores, memory, system and NVIDIA GPUs; constant while the machine is."""
    gpus, driver = _gpus()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory_gib": _memory_gib(),
        "gpu": ", ".join(gpus) or "none",
        "gpu_driver": driver or "none",
    }


# Of a record: what a time depends on. The commit is not among them, as it is what one compares.
DECISIVE = (
    "system",
    "cpu",
    "cores",
    "governor",
    "memory_gib",
    "cpu_limit_cores",
    "memory_limit_gib",
    "gpu",
    "gpu_driver_major",
    "gpu_cuda",
    "gpu_power_limit_w",
    "gpu_application_mhz",
    "versions",
)
NEUTRAL_VERSIONS = {"crispbench", "ir-measures", "pytrec-eval-terrier", "mteb", "beir", "datasets"}


class Differing(NamedTuple):
    """A field of two machine records that decides a time; None where a record lacks it."""

    field: str
    one: Any
    other: Any


def record(root: Path = ROOT) -> dict[str, Any]:
    """What a time depends on and what stays while the machine does: hardware, limits, versions, the project's commit.

    None for what cannot be read. It is no part of a store's fingerprint, which `machine` alone is.
    """
    return {
        **machine(),
        "kernel": platform.release(),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        **_limits(root),
        **_gpu_settings(),
        "versions": versions(),
        "commit": _commit(PROJECT),
    }


def comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Differing, ...]:
    """The fields in which two records differ that decide a time; times may be compared if there are none."""
    left, right = _decisive(one), _decisive(other)
    names = sorted(left.keys() | right.keys())
    return tuple(
        Differing(name, left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)
    )


def _decisive(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: record.get(name) for name in DECISIVE if name != "versions"}
    shown = {f"version of {name}": value for name, value in record.get("versions", {}).items()}
    return kept | {name: value for name, value in shown.items() if name.rpartition(" ")[2] not in NEUTRAL_VERSIONS}


def _limits(root: Path) -> dict[str, float | None]:
    """What the container may use, of cgroup version 2 or 1: the tightest limit, None without one."""
    cores, memory_gib = [], []
    for folder in _cgroups(root):
        quota, _, period = (_text(folder / "cpu.max") or "").partition(" ")
        quota = quota or _text(folder / "cpu.cfs_quota_us") or ""
        period = period or _text(folder / "cpu.cfs_period_us") or ""
        if quota.isdigit() and period.isdigit():  # "max" and -1 are no limit
            cores.append(int(quota) / int(period))
        memory = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes") or ""
        if memory.isdigit() and int(memory) < 2**60:  # version 1 says "none" by a number near 2^63
            memory_gib.append(round(int(memory) / 2**30, 1))
    return {"cpu_limit_cores": min(cores, default=None), "memory_limit_gib": min(memory_gib, default=None)}


def _cgroups(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups. A container often sees its own as the root."""
    mounted = root / "sys/fs/cgroup"
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield mounted / controller
            yield mounted / controller / path.lstrip("/")


def _gpu_settings() -> dict[str, Any]:
    nvml, handles = open_nvml()
    settings: dict[str, Any] = dict.fromkeys(
        ("gpu_driver_major", "gpu_cuda", "gpu_memory_gib", "gpu_power_limit_w", "gpu_application_mhz")
    )
    if nvml is None or not handles:
        return settings

    def ask(function: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, function)(*arguments)
        except nvml.NVMLError:  # this GPU, or this driver, does not tell
            return None

    memory = [ask("nvmlDeviceGetMemoryInfo", handle) for handle in handles]
    power_mw = [ask("nvmlDeviceGetEnforcedPowerLimit", handle) for handle in handles]
    cuda = ask("nvmlSystemGetCudaDriverVersion")
    return {
        "gpu_driver_major": str(ask("nvmlSystemGetDriverVersion")).partition(".")[0],
        "gpu_cuda": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "gpu_memory_gib": [None if each is None else round(each.total / 2**30, 1) for each in memory],
        "gpu_power_limit_w": [None if each is None else each / 1e3 for each in power_mw],
        "gpu_application_mhz": [
            ask("nvmlDeviceGetApplicationsClock", handle, nvml.NVML_CLOCK_SM) for handle in handles
        ],
    }


def _commit(checkout: Path) -> str | None:
    """The project's commit, with "+" behind it if files are changed; None outside of a checkout."""
    if not (checkout / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+" if changes else "")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_gib() -> str:
    try:
        return str(round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30))
    except (AttributeError, ValueError, OSError):
        return "unknown"


def _gpus() -> tuple[list[str], str]:
    nvml, handles = open_nvml()
    if nvml is None:
        return [], ""
    return [str(nvml.nvmlDeviceGetName(handle)) for handle in handles], str(nvml.nvmlSystemGetDriverVersion())


def open_nvml() -> tuple[Any, list[Any]]:
    """NVML and its GPUs; None where there is no package, no driver, or one that does not answer."""
    try:
        import pynvml
    except ImportError:
        return None, []
    try:
        pynvml.nvmlInit()
        return pynvml, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None, []
