"""The verb `ab`: its exit codes, its JSON document, its error lines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.base import Description
from harness.ab import verb
from harness.ab.journal import Journal
from harness.ab.records import ARMS, LaunchPair, LoadedLaunch, Round

SMALL = ("--rounds", 1, "--queries", 5, "--warmup", 1)


@pytest.fixture
def config(animals: Path, tmp_path: Path) -> Path:
    path = tmp_path / "animals.yaml"
    document = {
        "name": "animals",
        "engines": {
            "a": {"kind": "fake"},
            "b": {"kind": "fake", "seed": 1},
            "bad": {"kind": "fake", "fail_on": "worm"},
        },
        "benchmarks": [{"source": "beir", "path": str(animals)}],
        "candidates": {"k": 3},
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def slower(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Replaces processes by computed times; B is slower by the given share."""

    def give(share: float) -> None:
        def launch_pair(sides: object, plan: object, journal: Journal, *, number: int, **_: object) -> LaunchPair:
            for arm in ARMS:
                journal.launch(LoadedLaunch(number, arm, 1, 0.1, Description(), versions={}, machine={}))
            times = [0.05 * (1 + share) * (1 + 0.001 * number)] * 25
            return LaunchPair([Round([0.05] * 25, [3] * 25)] * 4, [Round(times, [3] * 25)] * 4)

        monkeypatch.setattr(verb, "run_launch_pair", launch_pair)

    return give


@pytest.mark.parametrize(("share", "code"), [(0.0, 0), (0.2, 1), (0.0265, 3)])
def test_the_exit_code_follows_from_the_verdict(
    config: Path, crispbench: Callable[..., Any], slower: Callable[[float], None], share: float, code: int
) -> None:
    slower(share)
    arguments = ("--engine", "a", "--engine", "b", "--max-pairs", 6, "--json", "--out", config.parent / "out")
    answer = crispbench("ab", config, *arguments)
    assert answer.code == code
    document = json.loads(answer.out)
    assert (document["plan"]["max_pairs"], document["launch_pairs"]) == (6, 6)
    assert document["outcome"] == {0: "pass", 1: "regression", 3: "inconclusive"}[code]


def test_real_processes_are_launched_and_the_table_is_printed(
    config: Path, tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    arguments = ("--engine", "a", "--engine", "b", "--max-pairs", 1, *SMALL, "--margin", "p95=none")
    answer = crispbench("ab", config, *arguments, "--out", tmp_path / "out")
    assert answer.code == 3
    assert (
        answer.out.splitlines()[0] == "A a, B b on animals: launch pairs 1 of at most 1, rounds 1, queries per round 5"
    )
    assert "p95" not in answer.out
    assert answer.out.splitlines()[-2].startswith("INCONCLUSIVE: ")
    assert answer.out.endswith("out/index.html\n") and answer.out.splitlines()[-1].startswith("report: ")


def test_an_engine_that_cannot_score_ends_with_one_line_and_exit_5(
    config: Path, tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    arguments = ("--engine", "a", "--engine", "bad", "--max-pairs", 1, *SMALL)
    answer = crispbench("ab", config, *arguments, "--out", tmp_path / "out")
    assert (answer.code, answer.out, answer.err.count("\n")) == (5, "", 1)
    assert "engine 'bad' (B), launch pair 1: query 'animal worm'" in answer.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "a"), "expected two different ones"),
        (
            ("--engine", "a", "--engine", "b", "--margin", "p50=much"),
            "from 0 to below 1, such as p50=0.05",
        ),
    ],
)
def test_an_impossible_request_ends_with_one_line_and_exit_2(
    config: Path, tmp_path: Path, crispbench: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    answer = crispbench("ab", config, *arguments, "--out", tmp_path / "out")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert message in answer.err
    assert not (tmp_path / "out").exists()
