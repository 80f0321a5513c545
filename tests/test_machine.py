"""A machine's record holds everything that a time depends on; two records can be compared field by field."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from harness import machine

GIT = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


class StandIn(ModuleType):
    """NVML with two GPUs; the second reports few figures."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM = 1

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return ("NVIDIA H100", "NVIDIA L4")[handle]

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.124.06"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 12080

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=(80, 24)[handle] * 2**30)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        if handle:
            raise self.NVMLError("Not Supported")
        return 700_000

    def nvmlDeviceGetApplicationsClock(self, handle: int, clock: int) -> int:
        raise self.NVMLError("Not Supported")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", StandIn("pynvml"))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.usefixtures("gpus")
def test_a_record_holds_the_limits_of_every_gpu_and_none_for_missing_ones() -> None:
    record = machine.record()
    assert record["gpu"] == "NVIDIA H100, NVIDIA L4"
    assert (record["gpu_driver"], record["gpu_driver_major"], record["gpu_cuda"]) == ("570.124.06", "570", "12.8")
    assert record["gpu_memory_gib"] == [80, 24]
    assert record["gpu_power_limit_w"] == [700, None]
    assert record["gpu_application_mhz"] == [None, None]


def test_without_a_driver_a_record_holds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = StandIn("pynvml")

    def refuse() -> None:
        raise StandIn.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(absent, "nvmlInit", refuse)
    monkeypatch.setitem(sys.modules, "pynvml", absent)
    record = machine.record()
    assert (record["gpu"], record["gpu_driver_major"], record["gpu_power_limit_w"]) == ("none", None, None)


def test_the_commit_of_the_checkout_is_marked_when_files_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PROJECT", tmp_path)
    assert machine.record()["commit"] is None  # an installed wheel
    for name, value in GIT.items():
        monkeypatch.setenv(name, value)
    write(tmp_path / "file", "one")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert machine.record()["commit"] == commit.stdout.strip()
    write(tmp_path / "new", "an untracked file")
    assert machine.record()["commit"] == commit.stdout.strip()
    write(tmp_path / "file", "two")
    assert machine.record()["commit"] == commit.stdout.strip() + "+"


def test_a_record_does_not_differ_from_itself() -> None:
    assert machine.differences(machine.record(), machine.record()) == ()


def test_differences_that_affect_a_time_are_listed() -> None:
    first = {"cpu": "A", "cores": "2", "versions": {"torch": "2.13", "numpy": "2"}}
    second = {"cpu": "B", "cores": "2", "governor": "powersave", "versions": {"torch": "2.14", "numpy": "2", "x": "1"}}
    assert machine.differences(first, second) == (
        ("cpu", "A", "B"),
        ("governor", None, "powersave"),
        ("version of torch", "2.13", "2.14"),
        ("version of x", None, "1"),
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("commit", "another"),
        ("kernel", "7.0"),
        ("gpu_driver", "570.999"),
        ("versions", {"crispbench": "9", "mteb": "9"}),
    ],
)
def test_differences_that_do_not_affect_a_time_are_ignored(field: str, value: Any) -> None:
    assert machine.differences({"cpu": "A"}, {"cpu": "A", field: value}) == ()


@pytest.mark.usefixtures("gpus")
def test_the_fingerprint_of_a_store_has_only_its_six_fields() -> None:
    """An additional field would make an update of this program refuse to resume every earlier run."""
    assert machine.machine().document().keys() == {"system", "cpu", "cores", "memory_gib", "gpu", "gpu_driver"}
