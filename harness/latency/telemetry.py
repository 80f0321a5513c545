"""Clocks, power, heat and memory during a measurement, sampled by a separate process that does not slow it down.

The sampling process ends when its pipe closes, also if the measuring process is killed.
"""

import multiprocessing
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

import numpy as np

from harness import children
from harness.latency.conditions import cpu_mhz
from harness.nvml import answer, open_nvml

GPU_INTERVAL_S = 0.1
CPU_INTERVAL_S = 1.0  # on some systems reading a core's clock interrupts the core
PATIENCE_S = 60.0

# nvmlClocksEventReason* (nvml.h): reasons that slow down a busy GPU. Idling, application clocks and synchronised boards
# are left out.
SLOWED = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal, by software",
    0x40: "thermal, by hardware",
    0x80: "power brake",
}


class Gpu(NamedTuple):
    """The state of one GPU at one moment; None for a value that the GPU does not report."""

    name: str
    sm_mhz: float | None
    memory_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    reasons: int | None  # bits, see SLOWED
    memory_gib: float | None
    energy_j: float | None  # total since the driver was loaded


class Moment(NamedTuple):
    cpu_mhz: float | None
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class GpuTelemetry:
    name: str
    sm_mhz: tuple[float, float] | None  # minimum and median
    sm_variation: float | None  # standard deviation over mean
    memory_mhz: float | None
    power_w: float | None  # mean
    temperature_c: float | None  # maximum
    slowed_by: tuple[str, ...] | None
    memory_peak_gib: float | None
    energy_j: float | None


@dataclass(frozen=True)
class Telemetry:
    samples: int
    cpu_mhz: tuple[float, float] | None  # medians of the first and the second half
    gpus: tuple[GpuTelemetry, ...]

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """The telemetry that `document` wrote."""
        return cls(
            samples=document["samples"],
            cpu_mhz=_tuple(document["cpu_mhz"]),
            gpus=tuple(
                GpuTelemetry(**{**gpu, "sm_mhz": _tuple(gpu["sm_mhz"]), "slowed_by": _tuple(gpu["slowed_by"])})
                for gpu in document["gpus"]
            ),
        )


def _tuple(values: Sequence[Any] | None) -> Any:
    """The tuple of a JSON list."""
    return None if values is None else tuple(values)


class Sampler:
    """A running sampler; `stop` returns the telemetry."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def stop(self) -> Telemetry:
        self._connection.send("stop")
        return summary(self._connection.recv())


@contextmanager
def sampling() -> Iterator[Sampler]:
    """A process that samples until `stop`. It is ready when the block begins, and it has ended when the block ends."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the engine's threads and CUDA's state
    ours, theirs = context.Pipe()
    process = context.Process(target=watch, args=(theirs,), daemon=True)
    with children.safe_path():
        process.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE_S):
            raise RuntimeError(f"the telemetry process was not ready within {PATIENCE_S:.0f} s")
        ours.recv()
        yield Sampler(ours)
    finally:
        ours.close()
        process.join(PATIENCE_S)
        process.kill()  # has an effect only if the driver blocks the process


def watch(connection: Connection) -> None:
    """The main function of the process: sample until a message arrives or the pipe closes, then send all moments."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end also ends this process
    nvml, handles = open_nvml()
    pause_s = GPU_INTERVAL_S if handles else CPU_INTERVAL_S
    moments: list[Moment] = []
    read_cpu_s = -CPU_INTERVAL_S
    with suppress(EOFError, OSError):
        connection.send("ready")
        while not connection.poll(pause_s):
            mhz, now_s = None, time.perf_counter()
            if now_s - read_cpu_s >= CPU_INTERVAL_S:
                mhz, read_cpu_s = cpu_mhz(), now_s
            moments.append(Moment(mhz, read_gpus(nvml, handles)))
        connection.recv()
        connection.send([*moments, Moment(cpu_mhz(), read_gpus(nvml, handles))])


def read_gpus(nvml: Any, handles: Sequence[Any]) -> tuple[Gpu, ...]:
    return tuple(_read_gpu(nvml, handle) for handle in handles)


def summary(moments: Sequence[Moment]) -> Telemetry:
    clocks = [moment.cpu_mhz for moment in moments if moment.cpu_mhz is not None]
    half = len(clocks) // 2
    halves = (float(np.median(clocks[:half])), float(np.median(clocks[half:]))) if half else None
    return Telemetry(
        len(moments), halves, tuple(map(_gpu_summary, zip(*(moment.gpus for moment in moments), strict=True)))
    )


def _gpu_summary(readings: Sequence[Gpu]) -> GpuTelemetry:
    clocks, energy = _known(readings, "sm_mhz"), _known(readings, "energy_j")
    reasons = [reading.reasons for reading in readings if reading.reasons is not None]
    return GpuTelemetry(
        name=readings[0].name,
        sm_mhz=(min(clocks), float(np.median(clocks))) if clocks else None,
        sm_variation=float(np.std(clocks) / np.mean(clocks)) if any(clocks) else None,
        memory_mhz=max(_known(readings, "memory_mhz"), default=None),
        power_w=float(np.mean(power)) if (power := _known(readings, "power_w")) else None,
        temperature_c=max(_known(readings, "temperature_c"), default=None),
        slowed_by=tuple(name for bit, name in SLOWED.items() if any(bit & value for value in reasons))
        if reasons
        else None,
        memory_peak_gib=max(_known(readings, "memory_gib"), default=None),
        energy_j=energy[-1] - energy[0] if len(energy) > 1 else None,
    )


def _known(readings: Sequence[Gpu], name: str) -> list[float]:
    return [value for reading in readings if (value := getattr(reading, name)) is not None]


def _read_gpu(nvml: Any, handle: Any) -> Gpu:
    def read(function: str, *arguments: Any) -> Any:
        return answer(nvml, function, handle, *arguments)

    def scaled(value: float | None, unit: float) -> float | None:
        return None if value is None else value / unit

    memory = read("nvmlDeviceGetMemoryInfo")
    return Gpu(
        name=str(read("nvmlDeviceGetName")),
        sm_mhz=read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        memory_mhz=read("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        power_w=scaled(read("nvmlDeviceGetPowerUsage"), 1e3),
        temperature_c=read("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        reasons=read("nvmlDeviceGetCurrentClocksThrottleReasons"),
        memory_gib=None if memory is None else memory.used / 2**30,
        energy_j=scaled(read("nvmlDeviceGetTotalEnergyConsumption"), 1e3),
    )
