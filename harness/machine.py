"""The machine and the package versions behind a result: everything that can change a score or a time."""

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from harness import linux
from harness.manifest import Machine
from harness.nvml import answer, open_nvml

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
    """Versions of Python and of the installed packages in PACKAGES."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def machine() -> Machine:
    """CPU, cores, memory, system and NVIDIA GPUs; constant for the same machine."""
    gpus, driver = _gpus()
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cpu=linux.cpu_model() or platform.processor() or "unknown",
        cores=str(len(cores())),
        memory_gib=str(round(psutil.virtual_memory().total / 2**30)),
        gpu=", ".join(gpus) or "none",
        gpu_driver=driver or "none",
    )


def cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


# Fields of a record that can change a time. The commit is left out, because comparisons are made between commits.
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
    """A decisive field in which two machine records differ; None if a record lacks the field."""

    field: str
    first: Any
    second: Any


def record() -> dict[str, Any]:
    """Everything about this machine that can change a time: hardware, limits, versions, the project's commit.

    A field that cannot be read is None. A store's fingerprint holds only the fields of `machine`.
    """
    return {
        **machine().document(),
        "kernel": platform.release(),
        "governor": linux.governor(),
        **linux.limits()._asdict(),
        **_gpu_settings(),
        "versions": versions(),
        "commit": _commit(PROJECT),
    }


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Differing, ...]:
    """The decisive fields in which two records differ. Their times may be compared only if the result is empty."""
    before, after = _decisive(first), _decisive(second)
    pairs = [Differing(name, before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys())]
    return tuple(pair for pair in pairs if pair.first != pair.second)


def _decisive(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: record.get(name) for name in DECISIVE if name != "versions"}
    shown = {f"version of {name}": value for name, value in record.get("versions", {}).items()}
    return kept | {name: value for name, value in shown.items() if name.rpartition(" ")[2] not in NEUTRAL_VERSIONS}


def _gpu_settings() -> dict[str, Any]:
    nvml, handles = open_nvml()
    settings: dict[str, Any] = dict.fromkeys(
        ("gpu_driver_major", "gpu_cuda", "gpu_memory_gib", "gpu_power_limit_w", "gpu_application_mhz")
    )
    if nvml is None or not handles:
        return settings

    read = partial(answer, nvml)
    memory = [read("nvmlDeviceGetMemoryInfo", handle) for handle in handles]
    power_mw = [read("nvmlDeviceGetEnforcedPowerLimit", handle) for handle in handles]
    cuda = read("nvmlSystemGetCudaDriverVersion")
    return {
        "gpu_driver_major": str(read("nvmlSystemGetDriverVersion")).partition(".")[0],
        "gpu_cuda": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "gpu_memory_gib": [None if size is None else round(size.total / 2**30, 1) for size in memory],
        "gpu_power_limit_w": [None if limit is None else limit / 1e3 for limit in power_mw],
        "gpu_application_mhz": [
            read("nvmlDeviceGetApplicationsClock", handle, nvml.NVML_CLOCK_SM) for handle in handles
        ],
    }


def _commit(checkout: Path) -> str | None:
    """The project's commit, followed by "+" if tracked files were changed; None outside a checkout."""
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


def _gpus() -> tuple[list[str], str]:
    nvml, handles = open_nvml()
    if nvml is None:
        return [], ""
    return [str(nvml.nvmlDeviceGetName(handle)) for handle in handles], str(nvml.nvmlSystemGetDriverVersion())
