"""Readers of the files that Linux provides, tested on copies of such files."""

from pathlib import Path

import pytest

from harness import linux


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({"cpu.max": "250000 100000", "memory.max": str(6 * 2**30)}, (2.5, 6.0)),
        ({"cpu.max": "max 100000", "memory.max": "max"}, (None, None)),
        ({"jobs/one/cpu.max": "100000 100000", "cpu.max": "400000 100000"}, (1.0, None)),  # the tighter of the two
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, (1.5, None)),
        ({"cpu/cpu.cfs_quota_us": "-1", "memory/memory.limit_in_bytes": "9223372036854771712"}, (None, None)),
        ({"memory/jobs/one/memory.limit_in_bytes": str(2**31)}, (None, 2.0)),
        ({}, (None, None)),
    ],
)
def test_container_limits_are_read_from_both_cgroup_versions(
    tmp_path: Path, files: dict[str, str], limits: tuple[float | None, float | None]
) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/jobs/one\n3:cpu,cpuacct:/jobs/one\n0::/jobs/one")
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert linux.limits(tmp_path) == limits


def test_throttled_time_is_in_microseconds_in_cgroup_2_and_in_nanoseconds_in_cgroup_1(tmp_path: Path) -> None:
    assert linux.cpu_limited_s(tmp_path) is None
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.stat", "nr_throttled 2\nthrottled_time 1500000000")
    assert linux.cpu_limited_s(tmp_path) == 1.5
    write(tmp_path / "sys/fs/cgroup/cpu.stat", "usage_usec 5\nnr_throttled 2\nthrottled_usec 2500000")
    assert linux.cpu_limited_s(tmp_path) == 2.5


def test_heat_events_are_counted_for_the_given_cores_only(tmp_path: Path) -> None:
    assert linux.heat_events([0, 2], tmp_path) is None
    for core, events in ((0, 4), (1, 100), (2, 3)):
        write(tmp_path / f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count", str(events))
    assert linux.heat_events([0, 2], tmp_path) == 7


def test_the_governor_and_the_cpu_model_are_none_where_the_files_are_missing(tmp_path: Path) -> None:
    assert (linux.governor(tmp_path), linux.cpu_model(tmp_path)) == (None, None)
    write(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance")
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nmodel name\t: A CPU: 3 GHz\ncpu MHz\t\t: 2596.134")
    assert (linux.governor(tmp_path), linux.cpu_model(tmp_path)) == ("performance", "A CPU: 3 GHz")
