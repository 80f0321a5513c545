"""Real faults, one at a time: the data kept, the message and the way on, as the table in docs/reliability.md states."""

import ast
import importlib.util
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.torch.export_fp8 import check_out
from engines.torch.faults import lost_device_reported
from harness.run.page import plots
from harness.run.rows import engine_rows
from harness.store import FILE, Store

ROOT = Path(__file__).parents[1]
QUERIES = 60
PATIENCE_S = 60
Crispbench = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the plots, which take most of a small run's time; only commands in this process are affected."""
    monkeypatch.setattr(plots, "draw", lambda rows: [])


@pytest.fixture
def words(beir: Callable[..., Path], config: Callable[..., Path]) -> Path:
    """A config of 60 queries with 20 candidates each, whose store is larger than 100 KB."""
    draw = random.Random(1)
    vocabulary = [f"word{number}" for number in range(40)]
    documents = {f"d{number}": " ".join(draw.choices(vocabulary, k=10)) for number in range(80)}
    queries = {f"q{number}": " ".join(draw.choices(vocabulary, k=3)) for number in range(QUERIES)}
    qrels = {query_id: {f"d{draw.randrange(80)}": 1 for _ in range(5)} for query_id in queries}
    path = beir("words", documents, queries, qrels)
    engine = {"kind": "fake", "noise": 0.2}
    return config(engines={"fake": engine}, benchmarks=[{"source": "beir", "path": str(path)}], candidates={"k": 20})


@pytest.fixture
def whole(words: Path, crispbench: Crispbench, tmp_path: Path) -> Path:
    """The output folder of a run without any fault."""
    assert crispbench("run", words, "--out", tmp_path / "whole").code == 0
    return tmp_path / "whole"


def measures(run: Path) -> bytes:
    return (run / "fake/measures.json").read_bytes()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Disk:
    """A small file system in memory that can be filled, enlarged and made read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def complaint(answer: Any) -> str:
    """The only line on standard error of a command that ended with exit code 5, beside alarms about random words."""
    lines = [line for line in answer.err.splitlines() if "near a random order" not in line]
    assert (answer.code, len(lines)) == (5, 1), answer.err
    line: str = lines[0]
    return line


def test_after_a_full_disk_the_committed_queries_are_kept_and_the_same_command_continues(
    words: Path, whole: Path, disk: Disk, crispbench: Crispbench
) -> None:
    out = disk.folder / "out"
    line = complaint(crispbench("run", words, "--out", out))
    assert f"{out / 'fake' / FILE}: " in line and "committed scores are kept: fix this and repeat the command" in line
    with Store.read(out / "fake") as store:
        kept = store.samples("words")
    assert 0 < len(kept) < QUERIES
    disk.remount("size=8m")
    assert crispbench("run", words, "--out", out).code == 0
    assert measures(out) == measures(whole)
    with Store.read(out / "fake") as store:
        assert store.samples("words")[: len(kept)] == kept  # not scored again


def test_after_a_file_size_limit_the_committed_queries_are_kept_and_the_same_command_continues(
    words: Path, whole: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    """The full disk where nothing can be mounted: a limit of 200 KB per file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        line = complaint(crispbench("run", words, "--out", tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert FILE in line and "committed scores are kept: fix this and repeat the command" in line
    with Store.read(tmp_path / "out/fake") as store:
        assert 0 < len(store.done("words")) < QUERIES
    assert crispbench("run", words, "--out", tmp_path / "out").code == 0
    assert measures(tmp_path / "out") == measures(whole)


def test_a_report_on_a_full_disk_leaves_the_old_report_whole(words: Path, disk: Disk, crispbench: Crispbench) -> None:
    disk.remount("size=8m")
    out = disk.folder / "out"
    assert crispbench("run", words, "--part", "1/2", "--out", out).code == 0
    before, old = content(out / "report"), measures(out)
    assert crispbench("run", words, "--out", out, "--part", "2/2").code == 0
    for name, data in before.items():
        (out / "report" / name).write_bytes(data)
    (out / "fake/measures.json").write_bytes(old)
    free = os.statvfs(disk.folder)
    (disk.folder / "filler").write_bytes(b"x" * (free.f_bavail * free.f_bsize))
    line = complaint(crispbench("report", out))
    assert "No space left on device" in line and "repeat the command" in line
    assert content(out / "report") == before and measures(out) == old
    (disk.folder / "filler").unlink()
    assert crispbench("report", out).code == 0
    assert content(out / "report") != before


def test_a_read_only_folder_is_reported_in_one_line_and_can_still_be_merged(
    words: Path, whole: Path, disk: Disk, crispbench: Crispbench, tmp_path: Path
) -> None:
    disk.remount("size=8m")
    out = disk.folder / "out"
    assert crispbench("run", words, "--part", "1/2", "--out", out).code == 0
    assert crispbench("run", words, "--part", "2/2", "--out", tmp_path / "other").code == 0
    disk.remount("ro")
    for command in (["run", words, "--out", out], ["report", out]):
        line = complaint(crispbench(*command))
        assert "Read-only file system" in line and str(out) in line and "repeat the command" in line
    assert crispbench("merge", tmp_path / "merged", out, tmp_path / "other").code == 0
    assert measures(tmp_path / "merged") == measures(whole)
    disk.remount("rw")
    assert crispbench("run", words, "--out", out).code == 0
    assert measures(out) == measures(whole)


HOLD_THE_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
input()
"""


def test_a_store_locked_by_another_process_is_left_alone(
    words: Path, whole: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(whole / "fake/lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"\n"
        before = (whole / "fake" / FILE).read_bytes()
        assert "is being written by another process" in complaint(crispbench("run", words, "--out", whole, "--fresh"))
        assert (whole / "fake" / FILE).read_bytes() == before
        assert crispbench("report", whole).code == 0  # reading needs no lock
        writer.kill()
    assert crispbench("run", words, "--out", whole).code == 0  # a lock ends with its process


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_store_is_refused_and_fresh_replaces_it(
    words: Path, whole: Path, crispbench: Crispbench, share: float
) -> None:
    path = whole / "fake" / FILE
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    for command in (["run", words, "--out", whole], ["report", whole]):
        line = complaint(crispbench(*command))
        assert f"{path}: " in line and "--fresh" in line
    expected = measures(whole)
    assert crispbench("run", words, "--out", whole, "--fresh").code == 0
    assert measures(whole) == expected


def test_an_overwritten_page_of_a_store_never_changes_a_measure(
    words: Path, whole: Path, crispbench: Crispbench
) -> None:
    path = whole / "fake" / FILE
    content, expected = path.read_bytes(), measures(whole)
    refused = 0
    for page in range(0, len(content), 4096):
        path.write_bytes(content[:page] + b"\xa5" * 4096 + content[page + 4096 :])
        answer = crispbench("report", whole)
        refused += answer.code == 5
        assert answer.code == 5 or measures(whole) == expected, f"page at {page}"
        assert answer.err.count("\n") <= 1
    assert refused > len(content) / 4096 / 2


def test_a_clock_that_runs_backwards_changes_no_score_and_no_time(
    words: Path, whole: Path, crispbench: Crispbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [2e9]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setattr(time, "time_ns", lambda: int(backwards() * 1e9))
    assert crispbench("run", words, "--out", tmp_path / "out").code == 0
    assert measures(tmp_path / "out") == measures(whole)
    (row,) = engine_rows(tmp_path / "out/fake")
    assert all(0 < seconds < 60 for seconds in row.service_s) and len(row.service_s) == QUERIES - 1


def test_no_duration_is_measured_with_the_wall_clock() -> None:
    """The wall clock may be set back at any moment. Only dates use it: recorded ones, and Retry-After of a server."""
    dates = {"engines/remote/transport.py", "harness/check/baselines.py", "harness/latency/scenarios.py"}
    users = set()
    for path in [*ROOT.glob("engines/**/*.py"), *ROOT.glob("harness/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in {"time", "time_ns", "now", "utcnow", "today"}:
                if isinstance(node.value, ast.Name) and node.value.id in {"time", "datetime", "date"}:
                    users.add(path.relative_to(ROOT).as_posix())
    assert users == dates


GPU_ERROR = torch.AcceleratorError(
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"
)


@pytest.mark.parametrize("guarded", [True, False], ids=["torch", "another-engine"])
def test_a_failing_gpu_ends_its_engine_and_the_same_command_resumes(
    small: Path, moody: Any, crispbench: Crispbench, tmp_path: Path, *, guarded: bool
) -> None:
    error: BaseException = GPU_ERROR
    if guarded:
        with pytest.raises(Exception) as raised, lost_device_reported():
            raise GPU_ERROR
        error = raised.value
    command = ["run", small, "--engine", "moody", "--out", tmp_path / "out"]
    assert crispbench("run", small, "--engine", "moody", "--out", tmp_path / "whole").code == 0
    moody.answers["animal bird"] = error  # the third query
    answer = crispbench(*command)
    assert answer.code == 5
    where = answer.err if guarded else (tmp_path / "out/report/report.md").read_text(encoding="utf-8")
    assert "CUDA error: an illegal memory access was encountered" in where
    assert ("repeat the command" in where) == guarded
    with Store.read(tmp_path / "out/moody") as store:  # an engine that knows no lost GPU goes on with the next query
        scored, failed = len(store.done("animals")), store.failures("animals")
    assert (scored, len(failed)) == ((2, 0) if guarded else (4, 1))
    moody.answers.clear()
    moody.queries.clear()
    assert crispbench(*command).code == 0
    assert len(moody.queries) == 5 - scored
    name = "moody/measures.json"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


KILLED_REPORT = """
import os, signal, sys
from pathlib import Path
from harness.cli import main
replace, count = Path.replace, 0
def replace_or_die(path, target):
    global count
    count += Path(target).parent.name == "report"
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
Path.replace = replace_or_die
main(["report", sys.argv[1]])
"""


def test_a_killed_report_leaves_every_file_either_old_or_new(
    words: Path, crispbench: Crispbench, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert crispbench("run", words, "--part", "1/2", "--out", out).code == 0
    old = content(out / "report")
    assert crispbench("run", words, "--part", "2/2", "--out", out).code == 0
    new = content(out / "report")
    for name, data in old.items():
        (out / "report" / name).write_bytes(data)
    ran = subprocess.run([sys.executable, "-c", KILLED_REPORT, str(out)], cwd=ROOT, capture_output=True)
    assert ran.returncode == -signal.SIGKILL
    remaining = {name: data for name, data in content(out / "report").items() if not name.startswith(".")}
    assert remaining["index.html"] != old["index.html"]
    assert all(remaining[name] == old[name] for name in ("report.md", "table.tex"))
    assert crispbench("report", out).code == 0
    again = content(out / "report")
    assert {name: again[name] for name in new} == new


def test_a_killed_quantization_leaves_nothing_that_looks_like_a_checkpoint(animals: Path, tmp_path: Path) -> None:
    if not importlib.util.find_spec("modelopt"):
        pytest.skip("the extra `fp8` is not installed")
    out = tmp_path / "fp8"
    command = ["quantize", "checkpoints/demo", str(out), "--template", "demo", "--calibrate", str(animals)]
    with subprocess.Popen([sys.executable, "-m", "harness", *command], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not list(tmp_path.glob(".fp8.*/*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
    assert [path.name.startswith(".fp8.") for path in tmp_path.glob("*fp8*")] == [True]
    check_out(out)  # the same command is not refused


TABLE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")


def test_every_test_that_the_table_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)
    assert len(named) >= 25
    for name, test in named:
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{name}::{test}"


def test_every_fault_here_is_in_the_table() -> None:
    tests = {name for name in globals() if name.startswith("test_")} - {
        "test_every_test_that_the_table_names_exists",
        "test_every_fault_here_is_in_the_table",
    }
    assert sorted(name for name in tests if f"`tests/test_faults.py::{name}`" not in TABLE) == []
