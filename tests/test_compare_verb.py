"""`crispbench compare` on the command line: exit codes, errors of one line, the document of --json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = [f"{first}{second}" for first in "bcdfghjklm" for second in ("a", "e", "i", "o", "u", "ay")]  # 60

Run = Callable[..., Any]


@pytest.fixture
def recorded(beir: Callable[..., Path], config: Callable[..., Path], crispbench: Run, tmp_path: Path) -> Path:
    """A run of 60 queries: the fake engine, the same engine again, a wild one and one that fails on a query."""
    data = beir(
        "words",
        {f"d-{word}": f"a {word} thing" for word in WORDS},
        {f"q-{word}": f"thing {word}" for word in WORDS},
        {f"q-{word}": {f"d-{word}": 1} for word in WORDS},
    )
    engines = {
        "good": {"kind": "fake"},
        "again": {"kind": "fake"},
        "wild": {"kind": "fake", "noise": 9.0},
        "failing": {"kind": "fake", "fail_on": "bay"},
    }
    written = config(engines=engines, benchmarks=[{"source": "beir", "path": str(data)}], candidates={"k": 9})
    crispbench("run", written, "--out", tmp_path / "r")
    return tmp_path / "r"


def test_the_exit_code_follows_from_the_verdict(recorded: Path, crispbench: Run) -> None:
    passed = crispbench("compare", recorded / "good", recorded / "again", "--margin", "0.06")
    assert (passed.code, "PASS: again does not lose more than the margin" in passed.out) == (0, True)
    few = crispbench("compare", recorded / "good", recorded / "again")
    assert (few.code, "it cannot be known from 60 queries" in few.out) == (3, True)
    assert crispbench("compare", recorded / "good", recorded / "wild").code == 1
    assert crispbench("compare", recorded / "good", recorded / "again", recorded / "wild").code == 1


def test_an_incomplete_run_ends_with_one_line_and_exit_5(recorded: Path, crispbench: Run) -> None:
    answer = crispbench("compare", recorded / "good", recorded / "failing")
    assert (answer.code, answer.out) == (5, "")
    assert answer.err.count("\n") == 1 and "1 of 60 queries have no scores (q-bay)" in answer.err


def test_wrong_arguments_exit_2_and_name_the_valid_ones(recorded: Path, crispbench: Run) -> None:
    answer = crispbench("compare", recorded / "good", recorded / "wild", "--allow", "machine")
    assert answer.code == 2 and "expected one of template" in answer.err
    assert crispbench("compare", recorded / "good").code == 2


def test_different_candidates_exit_4_and_name_the_field(recorded: Path, crispbench: Run, tmp_path: Path) -> None:
    written = tmp_path / "config.yaml"
    written.write_text(written.read_text(encoding="utf-8").replace("k: 9", "k: 8"), encoding="utf-8")
    crispbench("run", written, "--out", tmp_path / "s", "--engine", "good")
    answer = crispbench("compare", recorded / "good", tmp_path / "s/good")
    assert answer.code == 4 and "words candidates.k is 9 and 8" in answer.err


def test_json_prints_one_document_and_files_are_written_only_with_out(
    recorded: Path, crispbench: Run, tmp_path: Path
) -> None:
    arguments = ("compare", recorded / "good", recorded / "wild", "--noise", recorded / "again", "--json")
    before = sorted(tmp_path.rglob("*"))
    plain = crispbench(*arguments)
    assert json.loads(plain.out)["outcome"] == "regression" and plain.err == ""
    assert sorted(tmp_path.rglob("*")) == before
    written = crispbench(*arguments, "--out", tmp_path / "out", "--config", tmp_path / "config.yaml")
    assert (written.code, written.err) == (1, "")
    document = json.loads(written.out)
    assert document == json.loads((tmp_path / "out/compare.json").read_text(encoding="utf-8"))
    assert document["comparisons"][0]["losses"][0]["text"].startswith("thing ")
