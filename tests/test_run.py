"""The loop scores missing queries, commits them one by one, and never treats a missing score as zero."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.base import Counts, EngineFailed, EngineUnavailable, ScoringFailed
from harness.config import EngineEntry, read_config
from harness.records import Row
from harness.run import rows
from harness.run.loop import GivenUp, score_engine
from harness.run.tasks import Selection, Task, prepare
from harness.store import NotComparable, Store, StoreError


def tasks_of(path: Path) -> list[Task]:
    return prepare(read_config(path), Selection())


def score(path: Path, folder: Path, engine: str = "moody", *, fresh: bool = False) -> Row:
    """Score the config's only benchmark with one engine, without a report."""
    score_engine(engine, read_config(path).engines[engine], tasks_of(path), folder, fresh=fresh)
    (row,) = rows.engine_rows(folder)
    return row


# What is scored


def test_every_candidate_of_every_query_is_scored_in_first_stage_order(small: Path, moody: Any, tmp_path: Path) -> None:
    moody.answers = {"animal bird": [0.1 + 0.2, -1 / 3, 5e-324]}
    row = score(small, tmp_path / "out")
    assert (row.verdict, row.queries, row.pairs, row.coverage) == ("complete", 5, 15, 1.0)
    (task,) = tasks_of(small)
    with Store.read(tmp_path / "out") as store:
        stored = store.scores("animals")
        assert {query_id: tuple(score.doc_id for score in listed) for query_id, listed in stored.items()} == dict(
            task.candidates.lists
        )
        assert [(score.rank, score.value) for score in stored["q-bird"]] == [(1, 0.1 + 0.2), (2, -1 / 3), (3, 5e-324)]
        assert store.qrels("animals") == task.benchmark.qrels


def test_scores_of_numpy_types_are_stored_as_numbers(small: Path, moody: Any, tmp_path: Path) -> None:
    moody.answers = {"animal bird": [np.float32(0.1), np.float64(0.1), np.int64(-1)]}
    score(small, tmp_path / "out")
    with Store.read(tmp_path / "out") as store:
        assert [score.value for score in store.scores("animals")["q-bird"]] == [0.10000000149011612, 0.1, -1.0]


def test_the_counts_of_an_engine_are_stored_per_query(small: Path, moody: Any, tmp_path: Path) -> None:
    score(small, tmp_path / "out")
    with Store.read(tmp_path / "out") as store:
        # 3 pairs, all with 2 words in the query and 5 in the document
        assert [sample.counts for sample in store.samples("animals")] == [Counts(tokens=3 * 7)] * 5


def test_the_first_query_is_warm_up_and_four_samples_have_no_percentile(
    small: Path, moody: Any, tmp_path: Path
) -> None:
    row = score(small, tmp_path / "out")
    with Store.read(tmp_path / "out") as store:
        assert [sample.warmup for sample in store.samples("animals")] == [True, False, False, False, False]
    assert row.p50 == (None, 4, 5)


def test_a_query_without_candidates_is_done_and_not_missing(
    beir: Callable[..., Path], config: Callable[..., Path], moody: Any, tmp_path: Path
) -> None:
    folder = beir(
        "pets",
        {"d1": "a cat", "d2": "a cat and a dog"},
        {"q1": "zebra", "q2": "cat"},
        {"q1": {"d1": 1}, "q2": {"d2": 1}},
    )
    path = config(engines={"moody": {"kind": "moody"}}, benchmarks=[{"source": "beir", "path": str(folder)}])
    row = score(path, tmp_path / "out")
    assert (row.verdict, row.coverage, row.missing, row.pairs) == ("complete", 1.0, (), 2)
    assert row.per_query["q1"] == 0.0
    assert moody.queries == ["cat"]  # the engine gets no empty request
    with Store.read(tmp_path / "out") as store:  # a query without candidates warms nothing up
        assert {sample.query_id: sample.warmup for sample in store.samples("pets")} == {"q1": True, "q2": True}


def test_the_query_itself_is_removed_before_the_cut_at_k(
    beir: Callable[..., Path], config: Callable[..., Path], moody: Any, tmp_path: Path
) -> None:
    texts = {name: f"a {name} is an animal" for name in ("cat", "dog", "bird", "fish")}
    folder = beir("twins", texts, texts, {"cat": {"dog": 1}, "dog": {"cat": 1}})
    benchmark = {"source": "beir", "path": str(folder), "remove_self": True}
    path = config(engines={"moody": {"kind": "moody"}}, benchmarks=[benchmark], candidates={"k": 2})
    assert score(path, tmp_path / "out").pairs == 4
    with Store.read(tmp_path / "out") as store:
        assert [score.doc_id for score in store.scores("twins")["cat"]] == ["dog", "bird"]
        assert [score.doc_id for score in store.scores("twins")["dog"]] == ["cat", "bird"]


def test_an_engine_is_prepared_with_exactly_the_texts_that_it_needs(small: Path, moody: Any, tmp_path: Path) -> None:
    (task,) = tasks_of(small)
    corpus = list(task.benchmark.documents.values())
    score(small, tmp_path / "nothing")
    assert moody.prepared == []
    moody.prepares = "corpus"
    score(small, tmp_path / "corpus")
    assert moody.prepared == corpus
    moody.prepares, moody.prepared = "candidates", []
    moody.answers = {"animal worm": ScoringFailed("not today")}
    score(small, tmp_path / "candidates")
    assert sorted(moody.prepared) == sorted(corpus)
    moody.prepared = []  # a resumed run shows only the candidates of the remaining queries
    score(small, tmp_path / "candidates")
    assert sorted(moody.prepared) == sorted(f"a {word} is an animal" for word in ("worm", "cat", "dog"))


# What has no score


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ScoringFailed("the server is gone"), "the server is gone"),
        ([1.0, math.nan, 0.5], "score nan for document"),
        ([1.0, math.inf, 0.5], "score inf for document"),
        ([1.0, 0.5], "returned 2 scores for 3 pairs"),
        ([], "returned 0 scores for 3 pairs"),
    ],
    ids=["failed", "NaN", "infinite", "one too few", "none"],
)
def test_a_query_without_scores_counts_zero_and_makes_the_run_incomplete(
    small: Path, moody: Any, tmp_path: Path, answer: Any, reason: str
) -> None:
    moody.answers = {"animal bird": answer}
    row = score(small, tmp_path / "out")
    assert (row.verdict, row.missing, row.queries) == ("incomplete", ("q-bird",), 5)
    assert row.coverage == pytest.approx(0.8)
    assert row.measures["nDCG@10"].value == pytest.approx(0.8)  # the other four are perfect
    assert any(reason in note for note in row.notes)
    with Store.read(tmp_path / "out") as store:
        assert "q-bird" not in store.scores("animals")


def test_a_failed_query_is_retried_and_a_committed_one_never(small: Path, moody: Any, tmp_path: Path) -> None:
    moody.answers = {"animal bird": ScoringFailed("not today"), "animal cat": ScoringFailed("not today")}
    assert score(small, tmp_path / "out").verdict == "incomplete"
    moody.answers, moody.queries = {}, []
    row = score(small, tmp_path / "out")
    assert moody.queries == ["animal cat", "animal bird"]
    assert (row.verdict, row.missing, row.notes) == ("complete", (), ())
    moody.queries = []
    assert score(small, tmp_path / "out") == row
    assert moody.queries == []


def test_an_engine_with_constant_scores_is_invalid_and_its_numbers_are_withheld(
    small: Path, moody: Any, tmp_path: Path
) -> None:
    moody.answers = {f"animal {word}": [float(len(word))] * 3 for word in ("cat", "dog", "bird", "fish", "worm")}
    row = score(small, tmp_path / "out")
    assert (row.verdict, row.measures, row.per_query) == ("invalid", {}, {})
    assert any("equal scores only" in note for note in row.notes)
    del moody.answers["animal cat"]  # a single list with an order is enough
    assert score(small, tmp_path / "other").verdict == "complete"


def test_lists_of_one_candidate_do_not_make_an_engine_constant(
    animals: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    path = config(
        engines={"flat": {"kind": "fake", "constant": True}},
        benchmarks=[{"source": "beir", "path": str(animals)}],
        candidates={"k": 1},
    )
    assert score(path, tmp_path / "out", "flat").verdict == "complete"


def test_an_interrupted_query_is_neither_scored_nor_failed(small: Path, moody: Any, tmp_path: Path) -> None:
    moody.answers = {"animal bird": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        score(small, tmp_path / "out")
    with Store.read(tmp_path / "out") as store:
        assert store.done("animals") == {"q-cat", "q-dog"}
        assert store.failures("animals") == []
    moody.answers, moody.queries = {}, []
    assert score(small, tmp_path / "out").verdict == "complete"
    assert moody.queries == ["animal bird", "animal fish", "animal worm"]


def test_an_engine_that_failed_for_three_queries_in_a_row_is_given_up_and_the_same_command_goes_on(
    small: Path, moody: Any, tmp_path: Path
) -> None:
    gone = EngineFailed("nobody listens")
    moody.answers = {f"animal {word}": gone for word in ("dog", "bird", "fish")}
    with pytest.raises(
        GivenUp, match=r"after 3 queries in a row without scores; .* goes on from there: nobody listens"
    ):
        score(small, tmp_path / "out")
    assert moody.queries == ["animal cat", "animal dog", "animal bird", "animal fish"]  # the worm was not asked for
    with Store.read(tmp_path / "out") as store:
        assert store.done("animals") == {"q-cat"}
    moody.answers, moody.queries = {}, []
    assert score(small, tmp_path / "out").verdict == "complete"
    assert "animal cat" not in moody.queries


def test_a_run_whose_engine_was_given_up_ends_with_its_report_and_one_line(
    small: Path, moody: Any, tmp_path: Path, crispbench: Callable[..., Any]
) -> None:
    moody.answers = {f"animal {word}": EngineFailed("nobody listens") for word in ("dog", "bird", "fish")}
    answer = crispbench("run", small, "--out", tmp_path / "out", "--engine", "moody", "--json")
    assert answer.code == 5
    lines = [line for line in answer.err.splitlines() if "given up" in line]
    assert len(lines) == 1 and lines[0].startswith("crispbench: engine moody: given up after 3 queries in a row")
    measured = json.loads(answer.out)["engines"]["moody"]["benchmarks"]["animals"]
    assert measured["missing"] == ["q-bird", "q-dog", "q-fish", "q-worm"]
    assert "the same command goes on from there" in (tmp_path / "out/report/report.md").read_text(encoding="utf-8")
    moody.answers = {}
    assert crispbench("run", small, "--out", tmp_path / "out", "--engine", "moody", "--json").code == 0


def test_queries_that_failed_before_are_tried_again_after_all_others(small: Path, moody: Any, tmp_path: Path) -> None:
    gone = EngineFailed("no answer in time")  # they alone would have an engine given up before the rest is scored
    moody.answers = {"animal cat": gone, "animal dog": gone, "animal bird": gone}
    with pytest.raises(GivenUp):
        score(small, tmp_path / "out")
    moody.queries = []
    with pytest.raises(GivenUp):
        score(small, tmp_path / "out")
    assert moody.queries == [f"animal {word}" for word in ("fish", "worm", "cat", "dog", "bird")]


@pytest.mark.parametrize("between", [None, ScoringFailed("this query alone")])
def test_an_engine_that_answers_or_refuses_a_query_in_between_is_not_given_up(
    between: Any, small: Path, moody: Any, tmp_path: Path
) -> None:
    gone = EngineFailed("nobody listens")
    moody.answers = {f"animal {word}": gone for word in ("cat", "dog", "fish", "worm")}
    if between:
        moody.answers["animal bird"] = between
    assert score(small, tmp_path / "out").coverage == pytest.approx(0.0 if between else 0.2)
    assert len(moody.queries) == 5


# Which scores may be resumed


def test_results_of_another_configuration_are_not_extended(small: Path, moody: Any, tmp_path: Path) -> None:
    before = score(small, tmp_path / "out")
    entry = EngineEntry.read("moody", {"kind": "moody", "seed": 7})
    with pytest.raises(NotComparable, match=r"options\.seed was 'nothing' and is 7"):
        score_engine("moody", entry, tasks_of(small), tmp_path / "out", fresh=False)
    small.write_text(small.read_text().replace("k: 3", "k: 2"))
    with pytest.raises(NotComparable, match=r"candidates\.k was 3 and is 2"):
        score(small, tmp_path / "out")
    assert rows.engine_rows(tmp_path / "out") == [before]


def test_fresh_discards_the_results_and_scores_again(small: Path, moody: Any, tmp_path: Path) -> None:
    score(small, tmp_path / "out")
    small.write_text(small.read_text().replace("k: 3", "k: 2"))
    assert score(small, tmp_path / "out", fresh=True).pairs == 10
    assert len(moody.queries) == 10


def test_fresh_with_an_engine_that_cannot_be_loaded_keeps_the_results(small: Path, moody: Any, tmp_path: Path) -> None:
    before = score(small, tmp_path / "out")
    moody.missing_package = True
    with pytest.raises(EngineUnavailable):
        score(small, tmp_path / "out", fresh=True)
    assert rows.engine_rows(tmp_path / "out") == [before]


def test_fresh_does_not_delete_a_store_that_another_process_is_writing(small: Path, moody: Any, tmp_path: Path) -> None:
    before = score(small, tmp_path / "out")
    (task,) = tasks_of(small)
    with Store.read(tmp_path / "out") as store:
        manifest = store.manifest()
    assert manifest is not None

    def other_process(*arguments: object, **options: object) -> list[float]:
        with pytest.raises(StoreError, match="being written by another process"):
            score(small, tmp_path / "out", "fake", fresh=True)
        return [3.0, 2.0, 1.0]

    moody.answers = {"animal cat": Lazy(other_process)}
    after = score(small, tmp_path / "out", fresh=True)
    assert (after.verdict, after.engine, after.pairs) == (before.verdict, "moody", before.pairs)
    assert task.pairs == after.pairs


class Lazy:
    """An answer that is computed when it is read."""

    def __init__(self, make: Callable[[], list[float]]) -> None:
        self._make = make

    def __iter__(self) -> Any:
        return iter(self._make())
