"""`crispbench check` and `crispbench baseline` on the command line: exit codes and the document of --json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.check_folders import MACHINE, SETTINGS, changed, record, record_launches

Run = Callable[..., Any]
STEADY = (1.0, 1.002, 0.998, 1.004, 0.996)


@pytest.fixture
def main(tmp_path: Path, crispbench: Run) -> Path:
    """A store with the baseline `main` of five launches."""
    store = tmp_path / "store"
    answer = crispbench("baseline", "save", "main", *record_launches(tmp_path / "a", STEADY), "--store", store)
    assert (answer.code, answer.out) == (0, f"main@1: 5 launches in {store / 'main/0001'}\n")
    return store


@pytest.mark.parametrize(
    ("slower", "arguments", "code"),
    [
        (1.0, [], 0),
        (1.1, [], 1),
        (1.1, ["--margin", "p50=0.2", "--margin", "p95=0.2", "--margin", "throughput=0.2"], 0),
        (1.02, [], 3),  # equal to the margin of throughput
        (1.0, ["--margin", "p42=0.2"], 2),
        (1.0, ["--allow", "gpu"], 2),
    ],
)
def test_the_exit_code_follows_from_the_verdict(
    main: Path, crispbench: Run, slower: float, arguments: list[str], code: int
) -> None:
    current = record_launches(main.parent / "b", [slower * seconds for seconds in STEADY])
    answer = crispbench("check", "main", *current, "--store", main, *arguments)
    assert answer.code == code
    verdict = {0: "PASS:", 1: "REGRESSION:", 3: "INCONCLUSIVE:"}.get(code, "")
    assert (answer.out.splitlines() or [""])[-1].startswith(verdict)


def test_another_machine_exits_4_unless_allowed_and_an_invalid_recording_exits_5(
    main: Path, crispbench: Run, tmp_path: Path
) -> None:
    foreign = record_launches(tmp_path / "b", STEADY, machine=changed(MACHINE, cpu="Xeon"))
    assert crispbench("check", "main", *foreign, "--store", main).code == 4
    assert crispbench("check", "main", *foreign, "--store", main, "--allow", "machine").code == 0
    short = record(tmp_path / "c/e", 1.0, settings=changed(SETTINGS, min_duration_s=1e6))
    assert crispbench("check", "main", short, "--store", main).code == 5


def test_json_prints_one_document_and_files_are_written_only_with_out(
    main: Path, crispbench: Run, tmp_path: Path
) -> None:
    arguments = ("check", "main", record(tmp_path / "b/e", 1.0), "--store", main, "--json")
    before = sorted(tmp_path.rglob("*"))
    plain = crispbench(*arguments)
    assert (plain.code, json.loads(plain.out)["exit"], plain.err) == (3, 3, "")
    assert sorted(tmp_path.rglob("*")) == before
    assert crispbench(*arguments, "--out", tmp_path / "out").code == 3
    assert json.loads((tmp_path / "out/check.json").read_text(encoding="utf-8")) == json.loads(plain.out)
    assert (tmp_path / "out/check.md").read_text(encoding="utf-8").splitlines()[2].startswith("**INCONCLUSIVE: ")


def test_a_baseline_is_listed_and_its_history_shown(main: Path, crispbench: Run, tmp_path: Path) -> None:
    assert crispbench("baseline", "list", "--store", main).out.startswith("main  entries: 1, last saved 20")
    assert (
        json.loads(crispbench("baseline", "list", "--store", main, "--json").out)["baselines"]["main"]["entries"] == 1
    )
    shown = crispbench("baseline", "history", "main", "--store", main, "--out", tmp_path / "trend")
    assert (shown.code, "index.html" in shown.out) == (0, True)
    assert "single-stream" in shown.out and (tmp_path / "trend/trend.svg").exists()
    assert crispbench("baseline", "history", "other", "--store", main).code == 2
    assert crispbench("baseline", "list", "--store", tmp_path / "none").code == 0


def test_an_invalid_recording_and_a_name_with_a_slash_cannot_be_a_baseline(crispbench: Run, tmp_path: Path) -> None:
    short = record(tmp_path / "e", 1.0, settings=changed(SETTINGS, min_duration_s=1e6))
    for name, code in (("main", 5), ("a/b", 2)):
        answer = crispbench("baseline", "save", name, short, "--store", tmp_path / "store")
        assert (answer.code, answer.err.count("\n")) == (code, 1)
    assert not (tmp_path / "store").exists()
