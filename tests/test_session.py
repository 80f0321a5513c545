"""A run from config to report: its files, its output and its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Crispbench = Callable[..., Any]


def measures(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "measures.json").read_text(encoding="utf-8"))
    return document


def test_run_prints_one_json_document_with_the_content_of_measures_json(
    small: Path, moody: Any, tmp_path: Path, crispbench: Crispbench
) -> None:
    answer = crispbench("run", small, "--out", tmp_path / "out", "--json")
    assert (answer.code, answer.err) == (0, "")
    document = json.loads(answer.out)
    assert document["run"] == str(tmp_path / "out")
    assert list(document["engines"]) == ["fake", "moody"]
    assert document["engines"] == {name: measures(tmp_path / "out" / name) for name in ("fake", "moody")}
    entry = document["engines"]["fake"]["benchmarks"]["animals"]
    assert entry["measures"]["nDCG@10"] == {"value": 1.0, "lo": 1.0, "hi": 1.0}
    assert {name: entry[name] for name in ("queries", "pairs", "coverage", "tie_rate", "truncated")} == {
        "queries": 5,
        "pairs": 15,
        "coverage": 1.0,
        "tie_rate": 0.0,
        "truncated": 0,
    }
    assert entry["candidates"]["source"] == "bm25"
    assert entry["candidates"].keys() >= {"k", "sha256", "oracle"}
    for name in ("manifest.json", "latency.json"):
        assert (tmp_path / "out" / "fake" / name).is_file()
    assert {"index.html", "report.md", "table.tex"} <= {path.name for path in (tmp_path / "out/report").iterdir()}


def test_equal_scores_give_equal_bytes(small: Path, moody: Any, tmp_path: Path, crispbench: Crispbench) -> None:
    small.write_text(small.read_text().replace("kind: moody", "kind: moody\n    noise: 0.5"))
    for folder in ("first", "second"):
        assert crispbench("run", small, "--out", tmp_path / folder, "--engine", "moody").code == 0
    written = [(tmp_path / folder / "moody/measures.json").read_bytes() for folder in ("first", "second")]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (("MAX_NAME", 3), "animals: 7 characters in its name, expected at most 3"),
        (("MAX_QUERIES", 4), "animals: 5 queries, expected at most 4"),
        (("MAX_ROWS", 4), "animals: 5 judgements, expected at most 4"),
        (("MAX_CANDIDATES", 2), "animals: 3 candidates of one query, expected at most 2"),
        (("MAX_ID", 1), "animals: 6 characters in an id, expected at most 1"),
        (("MAX_BENCHMARKS", 0), "1 benchmarks, expected at most 0: use several configs"),
    ],
)
def test_a_benchmark_whose_results_no_report_would_read_is_refused_before_a_pair_is_scored(
    limit: tuple[str, int],
    message: str,
    small: Path,
    moody: Any,
    monkeypatch: pytest.MonkeyPatch,
    crispbench: Crispbench,
) -> None:
    monkeypatch.setattr(f"harness.run.tasks.{limit[0]}", limit[1])
    answer = crispbench("run", small, "--out", small.parent / "out")
    assert (answer.code, answer.err.strip()) == (2, f"crispbench: {message}")
    assert not moody.queries


def test_limit_selects_the_same_queries_every_time_and_a_lower_one_is_another_configuration(
    small: Path, moody: Any, tmp_path: Path, crispbench: Crispbench
) -> None:
    command = ("run", small, "--out", tmp_path / "out", "--engine", "moody", "--json", "--limit")
    answer = crispbench(*command, 2)
    assert json.loads(answer.out)["engines"]["moody"]["benchmarks"]["animals"]["queries"] == 2
    first = list(moody.queries)
    assert crispbench(*command, 2, "--fresh").code == 0
    assert moody.queries == first * 2
    refused = crispbench(*command, 1)
    assert refused.code == 4
    assert refused.err.count("\n") == 1 and "benchmarks.animals.queries was 2 and is 1" in refused.err
    assert moody.queries == first * 2


def test_only_the_selected_engines_and_benchmarks_run_and_earlier_results_stay(
    animals: Path, config: Callable[..., Path], moody: Any, tmp_path: Path, crispbench: Crispbench
) -> None:
    path = config(
        engines={"fake": {"kind": "fake"}, "bm25": {"kind": "bm25"}, "moody": {"kind": "moody"}},
        benchmarks=[{"source": "beir", "path": str(animals), "name": name} for name in ("first", "second")],
        candidates={"k": 3},
    )
    command = ("run", path, "--out", tmp_path / "out", "--json")
    answer = crispbench(*command, "--engine", "moody", "--benchmark", "second")
    assert answer.code == 0
    assert list(json.loads(answer.out)["engines"]) == ["moody"]
    assert list(measures(tmp_path / "out/moody")["benchmarks"]) == ["second"]
    assert not (tmp_path / "out/fake").exists()
    answer = crispbench(*command, "--engine", "bm25", "--benchmark", "second")
    report = (tmp_path / "out/report/report.md").read_text(encoding="utf-8")
    assert "moody" in report and "bm25" in report and "## first" not in report
    moody.queries = []
    answer = crispbench(*command, "--engine", "moody", "--engine", "bm25")  # the order of the config wins
    assert list(json.loads(answer.out)["engines"]) == ["bm25", "moody"]
    assert measures(tmp_path / "out/moody")["benchmarks"].keys() == {"second", "first"}
    assert len(moody.queries) == 5  # the queries of the first benchmark


@pytest.mark.parametrize(
    ("option", "names"), [(("--engine", "typo"), "fake, moody"), (("--benchmark", "typo"), "animals")]
)
def test_an_unknown_engine_or_benchmark_is_a_usage_error_with_the_valid_names(
    small: Path, moody: Any, tmp_path: Path, crispbench: Crispbench, option: tuple[str, str], names: str
) -> None:
    answer = crispbench("run", small, "--out", tmp_path / "out", *option)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert f"'typo' is not in the config; expected one of {names}" in answer.err
    assert not (tmp_path / "out").exists() and moody.queries == []


def test_two_benchmarks_with_the_same_name_are_a_usage_error(
    animals: Path, config: Callable[..., Path], tmp_path: Path, crispbench: Crispbench
) -> None:
    twice = [{"source": "beir", "path": str(animals)}] * 2
    path = config(engines={"fake": {"kind": "fake"}}, benchmarks=twice)
    answer = crispbench("run", path, "--out", tmp_path / "out")
    assert (answer.code, answer.out) == (2, "")
    assert "'animals' is listed twice" in answer.err


def test_an_engine_that_cannot_be_loaded_is_named_and_the_others_are_scored(
    small: Path, moody: Any, tmp_path: Path, crispbench: Crispbench
) -> None:
    moody.missing_package = True
    answer = crispbench("run", small, "--out", tmp_path / "out", "--json")
    assert answer.code == 5
    assert answer.err.count("\n") == 1 and "moodypackage" in answer.err
    assert list(measures(tmp_path / "out/fake")["benchmarks"]) == ["animals"]
    assert json.loads(answer.out)["engines"]["fake"]["benchmarks"]["animals"]["verdict"] == "complete"
    report = (tmp_path / "out/report/report.md").read_text(encoding="utf-8")
    assert "moodypackage" in report
    moody.missing_package = False  # once it is installed, the same command completes the run
    assert crispbench("run", small, "--out", tmp_path / "out", "--json").code == 0


def test_a_run_without_a_loadable_engine_exits_5_and_can_be_reported(
    small: Path, moody: Any, tmp_path: Path, crispbench: Crispbench
) -> None:
    moody.missing_package = True
    answer = crispbench("run", small, "--out", tmp_path / "out", "--engine", "moody", "--json")
    assert (answer.code, answer.out) == (5, "")
    assert "no engine could score" in answer.err.splitlines()[-1]
    index = json.loads((tmp_path / "out/run.json").read_text())
    assert "moodypackage" in index["unavailable"]["moody"]
    assert crispbench("report", tmp_path / "out").err == ""  # an empty run is not an error


def test_incomplete_and_invalid_runs_exit_5_and_only_the_incomplete_one_has_numbers(
    animals: Path, config: Callable[..., Path], tmp_path: Path, crispbench: Crispbench
) -> None:
    engines = {
        "failing": {"kind": "fake", "fail_on": "bird"},
        "constant": {"kind": "fake", "constant": True},
        "good": {"kind": "fake"},
    }
    path = config(engines=engines, benchmarks=[{"source": "beir", "path": str(animals)}])
    for engine, verdict in (("failing", "incomplete"), ("constant", "invalid"), ("good", "complete")):
        answer = crispbench("run", path, "--out", tmp_path / engine, "--engine", engine, "--json")
        assert answer.code == (0 if engine == "good" else 5)
        entry = json.loads(answer.out)["engines"][engine]["benchmarks"]["animals"]
        assert entry["verdict"] == verdict
        assert entry["coverage"] == pytest.approx(0.8 if engine == "failing" else 1.0)
        assert entry["missing"] == (["q-bird"] if engine == "failing" else [])
        assert bool(entry["measures"]) == (engine != "constant")


def test_a_run_interrupted_in_its_first_benchmark_can_be_reported_extended_and_resumed(
    animals: Path, config: Callable[..., Path], moody: Any, tmp_path: Path, crispbench: Crispbench
) -> None:
    path = config(
        engines={"fake": {"kind": "fake"}, "moody": {"kind": "moody"}},
        benchmarks=[{"source": "beir", "path": str(animals), "name": name} for name in ("first", "second")],
    )
    moody.answers = {"animal bird": KeyboardInterrupt()}
    command = ("run", path, "--out", tmp_path / "out", "--engine")
    interrupted = crispbench(*command, "moody")
    assert (interrupted.code, interrupted.out) == (130, "")
    assert interrupted.err.strip().count("\n") == 0 and "same command resumes" in interrupted.err
    reported = crispbench("report", tmp_path / "out")
    assert (reported.code, reported.err) == (0, "")
    joined = crispbench(*command, "fake")
    assert joined.err == ""
    entries = measures(tmp_path / "out/moody")["benchmarks"]
    assert {name: (entry["verdict"], entry["coverage"]) for name, entry in entries.items()} == {
        "first": ("incomplete", pytest.approx(0.4)),
        "second": ("incomplete", 0.0),
    }
    moody.answers = {}
    assert crispbench(*command, "moody").code == 0


def test_only_engines_over_the_same_candidates_are_compared(
    small: Path, moody: Any, tmp_path: Path, crispbench: Crispbench
) -> None:
    def report_after(engine: str) -> str:
        crispbench("run", small, "--out", tmp_path / "out", "--engine", engine)
        return (tmp_path / "out/report/report.md").read_text(encoding="utf-8")

    assert "different candidates" not in report_after("fake")
    small.write_text(small.read_text().replace("k: 3", "k: 2"))
    assert "different candidates" in report_after("moody")
