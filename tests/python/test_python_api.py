"""`import crispbench`: results and errors of every function, and the example of docs/python.md."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crispbench
from tests.conftest import write_beir

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
PAIRS = [("red cat", "a red cat sleeps"), ("red cat", "the sea"), ("sea", "the sea")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config with two engines over one benchmark of two queries, and a third engine that cannot be loaded."""
    folder = tmp_path_factory.mktemp("data")
    documents = {"d1": "a red cat sleeps", "d2": "the red sea", "d3": "a blue boat", "d4": "red"}
    data = write_beir(folder / "beir", documents, {"q1": "red cat", "q2": "sea"}, {"q1": {"d1": 1}, "q2": {"d2": 1}})
    path = folder / "config.yaml"
    path.write_text(
        "name: small\n"
        "engines:\n"
        "  plain: {kind: fake}\n"
        "  noisy: {kind: fake, noise: 0.5}\n"
        "  gone: {kind: remote, dialect: tei, url: 'http://127.0.0.1:9', api_key_env: CRISPBENCH_NO_SUCH_KEY}\n"
        f"benchmarks: [{{source: beir, path: {data}, name: made}}]\n"
        "candidates: {source: bm25, k: 3}\n"
    )
    return path


@pytest.fixture(scope="module")
def recorded(config: Path, tmp_path_factory: pytest.TempPathFactory) -> crispbench.Run:
    return crispbench.run(config, out=tmp_path_factory.mktemp("run") / "small", engines=["plain", "noisy"])


# The package


def test_every_public_name_exists_and_is_documented() -> None:
    for name in crispbench.__all__:
        assert getattr(crispbench, name).__doc__, name
        assert name in dir(crispbench)
    functions = [name for name in crispbench.__all__ if name.islower()]
    assert [name for name in functions if f"\n## {name}\n" not in PAGE] == []


def test_an_unknown_name_is_an_error_with_the_valid_names() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'rerank'; it has .*evaluate"):
        crispbench.rerank  # noqa: B018


def test_importing_the_package_imports_no_other_package() -> None:
    code = "import sys, crispbench; print(*{'engines', 'harness', 'pydantic', 'numpy', 'yaml'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_every_error_is_a_crispbench_error() -> None:
    values = [getattr(crispbench, name) for name in crispbench.__all__]
    errors = [value for value in values if isinstance(value, type) and issubclass(value, Exception)]
    assert len(errors) == 11
    assert all(issubclass(error, crispbench.CrispbenchError) for error in errors)


def test_the_example_of_the_page_runs_unchanged(tmp_path: Path) -> None:
    """Runs in a folder with the demo's checkpoint and config; the package itself is installed elsewhere."""
    example = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    for name in ("checkpoints", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    ran = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    relevant, irrelevant = map(float, lines[0].strip("[]").split(","))
    assert relevant > irrelevant
    assert [line.split()[1:3] for line in lines[2:4]] == [["bm25", "stdlib-code"], ["demo-fp32", "stdlib-code"]]
    assert lines[4] == "inconclusive"  # 5 queries decide nothing
    assert lines[5] == "{'RR@10': 0.5}"


# score


def test_scores_are_floats_in_the_order_of_the_pairs() -> None:
    scores = crispbench.score(None, PAIRS, engine="fake")
    assert all(type(score) is float for score in scores)
    assert scores == [crispbench.score(None, [pair], engine="fake")[0] for pair in PAIRS]
    assert scores[0] > scores[1] and scores[2] > scores[1]


def test_pairs_may_be_tuples_lists_or_an_iterator() -> None:
    expected = crispbench.score(None, PAIRS, engine="fake")
    assert crispbench.score(None, [crispbench.Pair(*pair) for pair in PAIRS], engine="fake") == expected
    assert crispbench.score(None, [list(pair) for pair in PAIRS], engine="fake") == expected  # type: ignore[misc]
    assert crispbench.score(None, iter(PAIRS), engine="fake") == expected


def test_the_documents_of_the_pairs_are_the_corpus_of_bm25() -> None:
    scores = crispbench.score(None, PAIRS, engine="bm25")
    assert scores[0] > 0 and scores[1] == 0 and scores[2] > 0


def test_options_are_checked_even_without_pairs() -> None:
    assert crispbench.score(None, [], engine="fake") == []
    with pytest.raises(crispbench.BadOptions, match="unknown option 'colour'"):
        crispbench.score(None, [], engine="fake", colour="red")


@pytest.mark.parametrize("pairs", [("query", "document"), [("query",)], [("query", None)], ["ab"]])
def test_a_pair_that_is_not_two_strings_is_refused_with_its_position(pairs: Any) -> None:
    with pytest.raises(TypeError, match=r"pairs\[0\] is .*: expected \(query, document\), two strings"):
        crispbench.score(None, pairs, engine="fake")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"engine": "magic"}, crispbench.BadOptions, "engine kind 'magic' is not known"),
        ({"engine": "torch", "weights": "random"}, crispbench.BadOptions, "scores mean nothing"),
        ({"engine": "fake", "fail_on": "sea"}, crispbench.ScoringFailed, "which this engine fails on"),
        ({"engine": "fake", "nan_on": "sleeps"}, crispbench.ScoringFailed, "expected a finite number"),
    ],
)
def test_an_engine_that_cannot_score_raises(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = "checkpoints/demo" if options["engine"] == "torch" else None
    with pytest.raises(error, match=message):
        crispbench.score(model, PAIRS, **options)


# evaluate


def test_measures_are_means_over_every_judged_query() -> None:
    qrels = {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 1}}
    result = crispbench.evaluate(qrels, {"q1": {"d1": 0.1, "d2": 0.9}, "q3": {"d1": 1.0}}, ["RR@10", "P@1"])
    assert result.per_query == {"RR@10": {"q1": 0.5, "q2": 0.0}, "P@1": {"q1": 0.0, "q2": 0.0}}
    assert result.means == {"RR@10": 0.25, "P@1": 0.0}
    assert result.missing == ("q2",)


def test_equal_scores_are_ordered_by_document_id_as_in_trec_eval() -> None:
    result = crispbench.evaluate({"q": {"a": 1}}, {"q": {"a": 1.0, "b": 1.0}}, ["RR@10"])
    assert result.means == {"RR@10": 0.5}


def test_numbers_of_pandas_and_numpy_are_read_as_a_file_would_be() -> None:
    qrels: Any = {np.int64(7): {np.int64(1): np.float64(1.0), 2: np.int64(0)}}
    run: Any = {"7": {"1": np.float32(0.25), "2": 1}}
    result = crispbench.evaluate(qrels, run, ["RR@10"])
    assert result.per_query == {"RR@10": {"7": 0.5}}


def test_a_run_without_a_judged_document_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert crispbench.evaluate({"q": {"a": 1}}, {"q": {"A": 1.0}}, ["AP"]).means == {"AP": 0.0}
    assert caplog.messages == [
        "crispbench: the run: none of its 1 documents for 1 judged queries is among the 1 judged ones: compare the ids"
    ]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ({"q": {"a": 1.5}}, "grade 1.5 of query 'q' and document 'a': expected a whole number"),
        ({"q": {"a": float("nan")}}, "grade nan of query 'q'"),
        ({"q": {"a": "1"}}, "grade '1' of query 'q'"),
        ({"q": {"a": True}}, "grade True of query 'q'"),
        ({"q": {1.0: 1}}, "id 1.0: expected a string or a whole number"),
        ({7: {"a": 1}, "7": {"b": 1}}, "id '7' is there as a text and as a number; keep one of them"),
    ],
)
def test_judgements_that_could_be_read_in_two_ways_are_refused(qrels: Any, message: str) -> None:
    with pytest.raises(crispbench.BenchmarkError, match=message):
        crispbench.evaluate(qrels, {"q": {"a": 1.0}}, ["AP"])


@pytest.mark.parametrize(
    ("run", "measure", "message"),
    [
        ({"q": {"a": "1"}}, "AP", "score '1' of query 'q' and document 'a': expected a finite number"),
        ({"q": {"a": 1.0}}, "nCDG@10", "measure 'nCDG@10' cannot be computed"),
        ({"other": {"a": 1.0}}, "AP", "none of the run's 1 queries is among the 1 judged ones"),
        ({"q": {"a": float("nan")}}, "AP", "score nan of query 'q' and document 'a': expected a finite number"),
    ],
)
def test_a_ranking_that_cannot_be_evaluated_raises(run: Any, measure: str, message: str) -> None:
    with pytest.raises(crispbench.BenchmarkError, match=message):
        crispbench.evaluate({"q": {"a": 1}}, run, [measure])


# run and read_run


def test_a_run_has_one_row_per_engine_and_is_read_back_equal(recorded: crispbench.Run) -> None:
    assert recorded.name == "small" and recorded.complete
    assert [(row.engine, row.benchmark, row.queries) for row in recorded.rows] == [
        ("plain", "made", 2),
        ("noisy", "made", 2),
    ]
    measurement = recorded.rows[0].measures["nDCG@10"]
    assert measurement.lo is not None and measurement.lo <= measurement.value
    assert crispbench.read_run(recorded.folder) == recorded
    assert (recorded.folder / "report/index.html").is_file()


def test_an_engine_that_cannot_be_loaded_is_logged_and_the_others_are_scored(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = crispbench.run(config, out=tmp_path / "run", engines=["plain", "gone"])
    assert not run.complete
    assert [row.verdict for row in run.rows] == ["complete", "incomplete"]
    assert "engine gone" in caplog.text
    assert [score.engine for score in run.scores()] == ["plain"] * len(list(run.scores()))


def test_the_table_of_rows_has_units_in_its_column_names(recorded: crispbench.Run) -> None:
    table = recorded.to_pandas()
    assert list(table["engine"]) == ["plain", "noisy"]
    assert {"nDCG@10", "nDCG@10 lo", "nDCG@10 hi", "p50_s", "p90_s", "pairs_per_s", "coverage"} <= set(table.columns)
    assert table["nDCG@10"][0] == recorded.rows[0].measures["nDCG@10"].value
    assert table["p50_s"].isna().all()  # one query after the warm-up is too few for a percentile


def test_the_table_of_scores_has_one_row_per_pair(recorded: crispbench.Run) -> None:
    table = recorded.to_pandas("scores")
    assert list(table.columns) == ["engine", "benchmark", "query_id", "doc_id", "rank", "score"]
    assert len(table) == sum(row.pairs for row in recorded.rows)
    query = table[(table.engine == "plain") & (table.query_id == "q1")]
    assert list(query["rank"]) == list(range(1, len(query) + 1))
    assert query.sort_values("score").doc_id.iloc[-1] == "d1"


def test_an_unknown_table_is_an_error_with_the_valid_names(recorded: crispbench.Run) -> None:
    with pytest.raises(ValueError, match="table 'latencies': expected 'rows' or 'scores'"):
        recorded.to_pandas("latencies")  # type: ignore[arg-type]


def test_without_pandas_the_error_gives_the_install_command(
    recorded: crispbench.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=re.escape("Run.to_pandas needs pandas: pip install 'crispbench[pandas]'")):
        recorded.to_pandas()


def test_a_wrong_config_and_a_folder_without_a_run_raise(tmp_path: Path) -> None:
    with pytest.raises(crispbench.ConfigError, match="cannot be read"):
        crispbench.run(tmp_path / "none.yaml")
    with pytest.raises(crispbench.StoreError, match="not a run folder"):
        crispbench.read_run(tmp_path)


# compare


def test_recorded_engines_are_compared_by_their_folders(recorded: crispbench.Run) -> None:
    result = crispbench.compare(recorded.folder / "plain", str(recorded.folder / "noisy"), margin=0.01)
    assert result.outcome == "inconclusive"  # two queries decide nothing
    assert result.document()["comparisons"][0]["candidate"]["name"] == "noisy"


def test_a_wrong_margin_and_a_folder_given_twice_raise(recorded: crispbench.Run) -> None:
    folder = recorded.folder / "plain"
    with pytest.raises(crispbench.BadOptions, match=r"margin 5: expected a loss of nDCG@10 above 0 and below 1"):
        crispbench.compare(folder, folder, margin=5)
    with pytest.raises(crispbench.BadOptions, match="is given twice"):
        crispbench.compare(folder, [folder])
