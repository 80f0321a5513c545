"""Both engines on the same cores."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.base import BadOptions
from harness.ab.pinning import choose_cores, pinned
from harness.machine import cores

CORES = "import os; print(sorted(os.sched_getaffinity(0)))"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_processes_that_start_in_the_block_run_on_the_chosen_cores_and_this_one_keeps_its_own() -> None:
    before = cores()
    with pinned((before[-1],)):
        inside = subprocess.run([sys.executable, "-c", CORES], capture_output=True, text=True, check=True).stdout
    assert json.loads(inside) == [before[-1]]
    assert cores() == before
    with pinned(()):
        assert cores() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_the_cores_with_the_highest_numbers_are_chosen_and_no_more_than_there_are() -> None:
    ours = cores()
    assert choose_cores(None) == ()
    assert choose_cores(1) == (ours[-1],)
    assert choose_cores(len(ours)) == tuple(ours)
    with pytest.raises(BadOptions, match=rf"--pin {len(ours) + 1}: expected at most {len(ours)}, the cores"):
        choose_cores(len(ours) + 1)


def test_a_system_that_cannot_pin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(BadOptions, match="--pin 1: this system cannot pin processes to cores"):
        choose_cores(1)
    assert choose_cores(None) == ()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_a_pinned_run_records_its_cores_in_the_plan_and_in_every_turn(
    animals: Path, tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    config = tmp_path / "animals.yaml"
    engines = {"a": {"kind": "fake"}, "b": {"kind": "fake", "seed": 1}}
    sources = [{"source": "beir", "path": str(animals)}]
    config.write_text(json.dumps({"name": "x", "engines": engines, "benchmarks": sources, "candidates": {"k": 3}}))
    small = ("--max-pairs", 1, "--rounds", 1, "--queries", 5, "--warmup", 0, "--pin", 1, "--out", tmp_path / "out")
    assert crispbench("ab", config, "--engine", "a", "--engine", "b", *small).code == 3
    assert json.loads((tmp_path / "out/ab.json").read_text())["plan"]["cores"] == [cores()[-1]]
    turns = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert {turn["cores"] for turn in turns if turn["event"] == "turn"} == {1}
