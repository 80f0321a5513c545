"""A run that is killed at any moment loses at most the query in flight; the same command completes it unchanged."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.run.rows import engine_rows
from harness.store import FILE

ROOT = Path(__file__).parents[1]
QUERIES = 60
DELAY_S = 0.015  # per query; 0.9 s of scoring in all
KILLS = 20
PATIENCE_S = 60

Samples = list[tuple[Any, ...]]


@pytest.fixture
def command(beir: Callable[..., Path], config: Callable[..., Path]) -> list[str]:
    """A run of one to two seconds; the caller adds `--out FOLDER`."""
    draw = random.Random(1)
    words = [f"word{number}" for number in range(40)]
    queries = {f"q{number}": " ".join(draw.choices(words, k=3)) for number in range(QUERIES)}
    documents = {f"d{number}": " ".join(draw.choices(words, k=10)) for number in range(80)}
    documents |= {f"r{query_id}": f"{query} {draw.choice(words)}" for query_id, query in queries.items()}
    qrels = {query_id: {f"r{query_id}": 1} for query_id in queries}
    path = config(
        engines={"fake": {"kind": "fake", "delay_s": DELAY_S, "noise": 0.2}},
        benchmarks=[{"source": "beir", "path": str(beir("words", documents, queries, qrels))}],
        candidates={"k": 10},
    )
    return [sys.executable, "-m", "harness", "run", str(path), "--json"]


@contextmanager
def started(command: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*command, "--out", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def rows(folder: Path, table: str) -> Samples:
    """Committed rows, read without the code under test; empty if a run was killed before its first table."""
    path = folder / "fake" / FILE
    if not path.is_file():
        return []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            return []
        return connection.execute(f"SELECT * FROM {table}").fetchall()
    finally:
        connection.close()


def until_committed(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and len(rows(folder, "samples")) < count:
        assert time.monotonic() < deadline, "no query was committed"
        time.sleep(0.01)


class Chain(NamedTuple):
    """The kills of a series of runs."""

    kills: int
    partial: int  # kills after which some queries were done and some were not
    last: Path  # the folder of the run that the last kill hit


def kill_at_random(command: list[str], folder: Path, whole_s: float, expected: bytes, seed: int) -> Chain:
    draw = random.Random(seed)
    kills, partial, run = 0, 0, 0
    while kills < KILLS / 2:
        out = folder / f"{seed}-{run}"
        before = rows(out, "samples")
        with started(command, out) as process:
            if draw.random() < 0.5:  # at any time, also while it starts or writes its report
                moment_s = draw.uniform(0, whole_s)
            else:  # while it scores
                until_committed(process, out, len(before) + 1)
                moment_s = draw.uniform(0, 10 * DELAY_S)
            try:
                _, error = process.communicate(timeout=moment_s)
                assert process.returncode == 0, error
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        after = rows(out, "samples")
        assert after[: len(before)] == before  # scores and times are kept, so no query is scored twice
        assert len(rows(out, "scores")) == sum(pairs for *_, pairs, _, _ in after)  # every query has all of its scores
        partial += 0 < len(after) < QUERIES
        if (out / "fake" / FILE).is_file():
            engine_rows(out / "fake")  # the interrupted store can be read
        if process.returncode == 0:
            assert (out / "fake/measures.json").read_bytes() == expected
            run += 1  # the remaining kills hit the next run
    return Chain(kills, partial, out)


def test_a_run_killed_twenty_times_never_scores_a_query_twice_and_ends_with_the_same_bytes(
    command: list[str], tmp_path: Path
) -> None:
    begun = time.monotonic()
    subprocess.run([*command, "--out", str(tmp_path / "whole")], cwd=ROOT, check=True, capture_output=True)
    whole_s = time.monotonic() - begun
    expected = (tmp_path / "whole/fake/measures.json").read_bytes()
    with ThreadPoolExecutor(2) as pool:  # two runs at a time save half of the wait
        chains = list(pool.map(lambda seed: kill_at_random(command, tmp_path, whole_s, expected, seed), (5, 6)))
    assert sum(chain.kills for chain in chains) == KILLS
    for chain in chains:
        subprocess.run([*command, "--out", str(chain.last)], cwd=ROOT, check=True, capture_output=True)
        assert (chain.last / "fake/measures.json").read_bytes() == expected
    assert sum(chain.partial for chain in chains) >= KILLS / 4, "the kills came too early or too late to show anything"


def test_ctrl_c_ends_a_run_with_one_line_and_exit_130_and_the_same_command_resumes_it(
    command: list[str], tmp_path: Path
) -> None:
    config = Path(command[4])
    config.write_text(config.read_text().replace(str(DELAY_S), "0.05"))  # 3 s of scoring: room for a slow machine
    with started(command, tmp_path / "out") as process:
        until_committed(process, tmp_path / "out", 3)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, "")
    assert error == "crispbench: interrupted: committed results are kept; for `run` the same command resumes\n"
    before = rows(tmp_path / "out", "samples")
    assert 3 <= len(before) < QUERIES
    resumed = subprocess.run([*command, "--out", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert rows(tmp_path / "out", "samples")[: len(before)] == before
