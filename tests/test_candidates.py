"""The first stage gives every query its best k documents, in an order that does not depend on chance."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.benchmarks import BenchmarkError, load
from harness.candidates import FirstStage, retrieve
from harness.measures import HEADLINE, MEASURES, measure
from harness.records import Benchmark, Candidates
from harness.trec import write_run


@pytest.fixture
def benchmark(animals: Path) -> Benchmark:
    return load("beir", {"path": animals})


def found(benchmark: Benchmark, stage: FirstStage) -> Candidates:
    return retrieve(benchmark, stage, lambda done: None)


def run_file(tmp_path: Path, lines: str) -> FirstStage:
    path = tmp_path / "first.trec"
    path.write_text("".join(f"{line} tag\n" for line in lines.split("; ")))
    return FirstStage(source="run", path=str(path))


def test_bm25_puts_the_document_with_the_rare_word_first_and_ties_in_corpus_order(benchmark: Benchmark) -> None:
    candidates = found(benchmark, FirstStage(k=3))
    assert candidates.lists["q-bird"] == ("d-bird", "d-cat", "d-dog")
    assert (candidates.source, candidates.k) == ("bm25", 3)
    assert {"k1": 0.9, "b": 0.4}.items() <= candidates.parameters.items()


def test_every_query_is_told_once(benchmark: Benchmark) -> None:
    told: list[int] = []
    retrieve(benchmark, FirstStage(), told.append)
    assert told == [1] * 5


def test_a_query_for_which_nothing_is_found_has_an_empty_list(benchmark: Benchmark) -> None:
    odd = replace(benchmark, queries={**benchmark.queries, "q-cat": "zebra", "q-dog": ""})
    lists = found(odd, FirstStage()).lists
    assert (lists["q-cat"], lists["q-dog"]) == ((), ())
    assert len(lists["q-bird"]) == 5
    assert lists.keys() == odd.queries.keys()


def test_a_first_stage_that_finds_nothing_at_all_is_an_error(benchmark: Benchmark) -> None:
    odd = replace(benchmark, queries=dict.fromkeys(benchmark.queries, "zebra"))
    with pytest.raises(BenchmarkError, match="bm25 found no candidate for any of 5 queries"):
        found(odd, FirstStage())


def test_the_query_itself_is_removed_before_the_cut_at_k(benchmark: Benchmark) -> None:
    own = dict(zip(benchmark.documents, benchmark.queries.values(), strict=True))  # query ids are document ids
    kept = replace(benchmark, queries=own, remove_self=False)
    assert found(kept, FirstStage(k=3)).lists["d-bird"] == ("d-bird", "d-cat", "d-dog")
    removed = replace(kept, remove_self=True)
    assert found(removed, FirstStage(k=3)).lists["d-bird"] == ("d-cat", "d-dog", "d-fish")


def test_a_run_files_candidates_come_by_score_and_ties_in_the_files_order(tmp_path: Path, benchmark: Benchmark) -> None:
    # the rank column is not believed: BEIR writes 0 on every line
    lines = "q-cat Q0 d-dog 0 1; q-cat Q0 d-cat 0 1; q-cat Q0 d-fish 0 2; q-dog Q0 d-dog 0 -1; other Q0 d 0 9"
    candidates = found(benchmark, run_file(tmp_path, lines))
    assert candidates.lists["q-cat"] == ("d-fish", "d-dog", "d-cat")
    assert candidates.lists["q-dog"] == ("d-dog",)
    assert candidates.lists["q-bird"] == ()
    assert candidates.lists.keys() == benchmark.queries.keys()


def test_a_run_file_is_cut_at_k_after_the_query_itself_is_removed(tmp_path: Path, benchmark: Benchmark) -> None:
    queries = dict(zip(benchmark.documents, benchmark.queries.values(), strict=True))
    own = replace(benchmark, queries=queries, remove_self=True)
    stage = run_file(tmp_path, "d-cat Q0 d-cat 1 3; d-cat Q0 d-dog 2 2; d-cat Q0 d-fish 3 1")
    assert found(own, stage.model_copy(update={"k": 1})).lists["d-cat"] == ("d-dog",)


def test_the_candidates_of_bm25_written_as_a_run_are_the_same_candidates(tmp_path: Path, benchmark: Benchmark) -> None:
    first = found(benchmark, FirstStage())
    write_run(tmp_path / "animals.trec.gz", first.lists, "bm25")
    again = found(benchmark, FirstStage(source="run", path=str(tmp_path / "{benchmark}.trec.gz")))
    assert again.lists == first.lists and again.sha256 == first.sha256


def test_the_hash_changes_with_the_order_of_documents_and_not_of_queries() -> None:
    one = Candidates("run", 2, {}, {"q": ("a", "b"), "r": ()})
    assert replace(one, lists={"r": (), "q": ("a", "b")}).sha256 == one.sha256
    assert replace(one, lists={"q": ("b", "a"), "r": ()}).sha256 != one.sha256


def test_a_run_for_other_queries_is_refused_with_an_example_of_both(tmp_path: Path, benchmark: Benchmark) -> None:
    with pytest.raises(BenchmarkError, match=r"none of its 1 queries.*'17'.*'q-cat'.*other queries"):
        found(benchmark, run_file(tmp_path, "17 Q0 d-cat 1 1"))


def test_a_run_with_a_document_that_the_corpus_lacks_is_refused(tmp_path: Path, benchmark: Benchmark) -> None:
    with pytest.raises(BenchmarkError, match="document 'd-yeti' of query 'q-cat' is not in animals"):
        found(benchmark, run_file(tmp_path, "q-cat Q0 d-cat 1 1; q-cat Q0 d-yeti 2 0.5"))


def test_candidates_from_a_run_need_its_path(benchmark: Benchmark) -> None:
    with pytest.raises(BenchmarkError, match="needs `path`"):
        found(benchmark, FirstStage(source="run"))


@pytest.mark.parametrize(("name", "anserini"), [("scifact", 0.6789), ("nfcorpus", 0.3218), ("arguana", 0.3970)])
def test_bm25_is_within_a_hundredth_of_anserinis_flat_index(
    name: str, anserini: float, shared_data: Callable[[str], Path]
) -> None:
    benchmark = load("beir", {"path": shared_data(f"{name}/beir"), "name": name})
    assert benchmark.remove_self == (name == "arguana")  # its queries are documents of its corpus
    candidates = found(benchmark, FirstStage())
    values = measure(benchmark.qrels, candidates.lists, MEASURES)[HEADLINE]
    assert sum(values.values()) / len(values) == pytest.approx(anserini, abs=0.010)
    assert max(map(len, candidates.lists.values())) == 100
    if benchmark.remove_self:
        assert all(query_id not in listed for query_id, listed in candidates.lists.items())
