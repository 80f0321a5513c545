"""The machine under measurement: a stand-in for NVML, this machine's own figures, a real sampling process."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from harness.latency import conditions
from harness.latency.conditions import Conditions, others_cores
from harness.latency.telemetry import Gpu, Moment, read_gpus, sampling, summary
from harness.machine import cores

ROOT = Path(__file__).parents[1]


class FakeNVMLError(Exception):
    pass


class StandIn(ModuleType):
    """NVML as nvidia-ml-py presents it; functions missing from `answers` are unsupported, as on many GPUs."""

    NVMLError = FakeNVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, **answers: Any) -> None:
        super().__init__("pynvml", "A stand-in.")
        self.answers = answers

    def __getattr__(self, name: str) -> Any:
        def function(*arguments: Any) -> Any:
            if name not in self.answers:
                raise FakeNVMLError("Not Supported")
            answer = self.answers[name]
            return answer(*arguments) if callable(answer) else answer

        if not name.startswith("nvml"):
            raise AttributeError(name)
        return function


H100 = StandIn(
    nvmlDeviceGetName="NVIDIA H100",
    nvmlDeviceGetClockInfo=lambda handle, clock: {1: 1980, 2: 2619}[clock],
    nvmlDeviceGetPowerUsage=412_500,  # mW
    nvmlDeviceGetTemperature=61,
    nvmlDeviceGetCurrentClocksThrottleReasons=0x4,
    nvmlDeviceGetMemoryInfo=SimpleNamespace(used=3 * 2**30, total=80 * 2**30),
    nvmlDeviceGetTotalEnergyConsumption=5_000_000,  # mJ
)


def test_gpu_figures_have_the_units_of_their_fields() -> None:
    assert read_gpus(H100, ["handle"]) == (Gpu("NVIDIA H100", 1980, 2619, 412.5, 61, 4, 3.0, 5000.0),)


def test_a_figure_that_a_gpu_does_not_report_is_none_instead_of_zero() -> None:
    silent = StandIn(nvmlDeviceGetName="GPU in a container")
    assert read_gpus(silent, ["handle"]) == (Gpu("GPU in a container", *[None] * 7),)
    (seen,) = summary([Moment(None, read_gpus(silent, ["handle"]))] * 3).gpus
    assert (seen.slowed_by, seen.energy_j, seen.memory_peak_gib, seen.sm_variation) == (None, None, None, None)


def test_the_summary_of_a_gpu_keeps_the_extremes_and_the_energy_used() -> None:
    def moment(sm_mhz: float, power_w: float, reasons: int, memory_gib: float, energy_j: float) -> Moment:
        return Moment(None, (Gpu("g", sm_mhz, 2619, power_w, 50 + memory_gib, reasons, memory_gib, energy_j),))

    (seen,) = summary(
        [moment(1000, 100, 1, 2, 500), moment(2000, 300, 0x48, 7, 700), moment(2000, 200, 0, 3, 950)]
    ).gpus
    assert seen.sm_mhz == (1000, 2000)
    assert seen.sm_variation == pytest.approx(0.2828427)  # for 1, 2, 2: sqrt(2 / 9) over 5 / 3
    assert seen.power_w == 200 and seen.temperature_c == 57
    assert seen.slowed_by == ("hardware slowdown", "thermal, by hardware")  # the reason idle (1) is not a slowdown
    assert (seen.memory_peak_gib, seen.energy_j) == (7, 450)


def test_the_cpu_clock_is_the_median_of_each_half() -> None:
    clocks = [3000.0, None, 3000.0, 1000.0, 2000.0, 2500.0, None, 2500.0]
    assert summary([Moment(mhz, ()) for mhz in clocks]).cpu_mhz == (3000.0, 2500.0)
    assert summary([Moment(3000.0, ())]).cpu_mhz is None  # one reading cannot show a change
    assert summary([Moment(None, ())] * 5).cpu_mhz is None


def test_the_sampler_is_a_separate_process_that_ends_with_its_block() -> None:
    before = set(children())
    with sampling() as sampler:
        (process,) = set(children()) - before - {resource_tracker()}
        assert process != os.getpid()
        seen = sampler.stop()
    assert seen.samples >= 1
    assert process not in children()


def test_the_sampler_ends_when_the_measuring_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, time, multiprocessing as m\nfrom harness.latency.telemetry import sampling\n"
        "if __name__ == '__main__':\n    with sampling():\n"
        "        print(m.active_children()[0].pid, flush=True)\n        time.sleep(600)\n"
    )
    (tmp_path / "victim.py").write_text(code)
    command, environment = [sys.executable, str(tmp_path / "victim.py")], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as victim:
        assert victim.stdout is not None
        sampler = int(victim.stdout.readline())
        victim.kill()
    until_s = time.monotonic() + 60
    while not ended(sampler):
        assert time.monotonic() < until_s, "the sampler outlived the measurement"
        time.sleep(0.05)


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def children() -> list[int]:
    return [process.pid for process in psutil.Process().children()]


def resource_tracker() -> int | None:
    """The process that multiprocessing starts with the first spawned one and keeps running."""
    from multiprocessing import resource_tracker

    return resource_tracker._resource_tracker._pid


def test_work_on_a_core_that_we_may_use_counts_as_busy() -> None:
    """A busy loop on the only core of a child appears in the child's own time and in the busy time of that core."""
    code = (
        "import os, time\nfrom harness.latency import conditions\n"
        "core = min(os.sched_getaffinity(0))\nos.sched_setaffinity(0, {core})\n"
        "before, started_s = conditions.read(), time.perf_counter()\n"
        "while time.process_time() < 1.5: pass\n"
        "after, wall_s = conditions.read(), time.perf_counter() - started_s\n"
        "print(after.own_s - before.own_s, after.busy_s - before.busy_s, wall_s)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    own_s, busy_s, wall_s = map(float, ran.stdout.split())
    assert own_s > 0.5
    assert own_s - 0.1 <= busy_s <= wall_s + 0.1  # the kernel counts in ticks of 10 ms


def test_conditions_of_this_machine_agree_with_psutil() -> None:
    now = conditions.read()
    assert 0 < now.memory_available_gib <= psutil.virtual_memory().total / 2**30
    assert now.busy_s is None or 0 < now.busy_s <= (time.time() - psutil.boot_time() + 1) * len(cores())
    clock = conditions.cpu_mhz()
    assert clock is None or 100 < clock < 10_000


def test_values_of_cores_that_we_may_not_use_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "cores", lambda: [0, 2])
    monkeypatch.setattr(os, "sysconf", {"SC_NPROCESSORS_CONF": 4}.__getitem__)
    assert conditions.of_our_cores(["a", "b", "c", "d"]) == ["a", "c"]
    assert conditions.of_our_cores(["a", "c"]) == ["a", "c"]  # 1 and 3 are offline, as with hyperthreading disabled
    assert conditions.of_our_cores(["a", "b", "c"]) is None  # one of the four is offline, and it is unknown which


def test_the_load_of_other_processes_is_the_busy_time_minus_our_own() -> None:
    before = Conditions((0, 0, 0), 1.0, busy_s=100.0, own_s=10.0, cpu_limited_s=None, heat_events=None)
    after = before._replace(busy_s=130.0, own_s=22.0)
    assert others_cores(before, after, seconds=12.0) == 1.5  # (30 - 12) / 12
    # The two clocks have different resolutions, so the difference may be below zero.
    assert others_cores(before, after._replace(own_s=50.0), seconds=12.0) == 0.0
    assert others_cores(before._replace(busy_s=None), after, seconds=12.0) is None


def test_child_processes_count_as_our_own_load() -> None:
    """A running child counts, and it counts only once after it has ended."""
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    before = conditions.read().own_s
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        running = conditions.read().own_s
        child.communicate("\n")
    ended = conditions.read().own_s
    assert running - before >= 0.45
    assert 0.45 <= ended - before < 2 * 0.5 + (running - before)
