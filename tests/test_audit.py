"""Odd texts in a run's prompts and nDCG@10 without their queries: computed by hand, then through whole runs."""

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.base import Counts, Pair
from engines.fake import Fake
from harness.figures.audit import KINDS, NO_QUALITY, NOT_COUNTED, NOT_EXAMINED, UNTOUCHED, audit, oddities
from harness.records import Audit, Oddities, Sample

ROOT = Path(__file__).parents[1]
SECOND = 1 / math.log2(3)  # nDCG of one relevant document at rank 2


# Texts


def test_empty_duplicate_and_shared_texts_are_counted_by_hand() -> None:
    documents = {
        "a": "same",
        "b": "same",
        "c": "",
        "d": "same",
        "e": "Same",
        "f": " \n\t",
        "g": "same",
        "h": "\ud800",
        "i": "?",
    }
    lists = {"q1": ("a", "b", "c"), "q2": ("c", "e", "f"), "q3": ("d",), "q4": (), "q5": ("h", "i")}
    assert oddities(documents, lists) == {
        "q1": Oddities(empty=1, duplicate=2, shared=2),
        "q2": Oddities(empty=2, duplicate=0, shared=0),  # empty texts are not duplicates of each other
        "q3": Oddities(empty=0, duplicate=0, shared=1),  # shared with a and b of another query
        "q4": Oddities(0, 0, 0),
        "q5": Oddities(0, 0, 0),  # a lone surrogate differs from the question mark that is printed for it
    }


def test_a_text_is_shared_among_candidates_only() -> None:
    documents = {"a": "same", "outside": "same"}
    assert oddities(documents, {"q": ("a",)}) == {"q": Oddities(0, 0, 0)}


texts = st.sampled_from(["", " ", "x", "x ", "\ud800", "?", "long " * 9])


@given(st.lists(texts, min_size=1, max_size=8), st.data())
def test_counts_equal_a_comparison_of_every_text_with_every_other(listed: list[str], data: st.DataObject) -> None:
    documents = {f"d{index}": text for index, text in enumerate(listed)}
    drawn = st.lists(st.sampled_from(sorted(documents)), unique=True)
    lists = data.draw(st.dictionaries(st.sampled_from("qrs"), drawn.map(tuple)))
    everywhere = {doc_id for docs in lists.values() for doc_id in docs}

    def twins(doc_id: str, doc_ids: Sequence[str] | set[str]) -> bool:
        text = documents[doc_id]
        return bool(text.strip()) and any(twin != doc_id and documents[twin] == text for twin in doc_ids)

    assert oddities(documents, lists) == {
        query_id: Oddities(
            sum(not documents[doc_id].strip() for doc_id in docs),
            sum(twins(doc_id, docs) for doc_id in docs),
            sum(twins(doc_id, everywhere) for doc_id in docs),
        )
        for query_id, docs in lists.items()
    }


class Watched(dict[str, str]):
    """A corpus that counts how often a text is read."""

    reads = 0

    def __getitem__(self, doc_id: str) -> str:
        self.reads += 1
        return super().__getitem__(doc_id)

    def items(self) -> Any:
        self.reads += len(self)
        return super().items()


@pytest.mark.parametrize(("size", "reads"), [(50, 50), (51, 2)])
def test_every_document_of_a_small_corpus_is_read_once_and_only_the_candidates_of_a_large_one(
    size: int, reads: int
) -> None:
    documents = Watched({f"d{number}": "same" for number in range(size)})
    lists = {"q": ("d1", "d7"), "r": ("d7",), "s": ("d7", "d1")}
    assert oddities(documents, lists)["s"] == Oddities(0, 2, 2)
    assert documents.reads == reads


# Queries left out

VALUES = {"q1": 1.0, "q2": 0.5, "q3": 0.0, "q4": 0.25}  # mean 0.4375


def samples(**counts: Mapping[str, int]) -> list[Sample]:
    return [Sample(query_id, 0.1, 3, warmup=False, counts=Counts(**fields)) for query_id, fields in counts.items()]


def test_ndcg_without_touched_queries_is_the_mean_of_the_others() -> None:
    counted = samples(
        q1={"truncated": 0, "truncated_queries": 0, "special_text": 2},
        q2={"truncated": 3, "truncated_queries": 0, "special_text": 0},
        q3={"truncated": 1, "truncated_queries": 0, "special_text": 0},
        q4={"truncated": 0, "truncated_queries": 1, "special_text": 0},
    )
    odd = {"q1": Oddities(1, 0, 1), "q2": Oddities(0, 0, 1), "q3": Oddities(0, 0, 2), "q4": Oddities(0, 0, 0)}
    assert audit(VALUES, VALUES, counted, odd) == {
        "special_text": Audit(2, 1, 3, 0.25, -0.1875, ""),  # (0.5 + 0 + 0.25) / 3
        "truncated": Audit(4, 2, 2, 0.625, 0.1875, ""),  # (1 + 0.25) / 2
        "truncated_queries": Audit(1, 1, 3, 0.5, 0.0625, ""),  # (1 + 0.5 + 0) / 3
        "empty": Audit(1, 1, 3, 0.25, -0.1875, ""),
        "duplicate": Audit(0, 0, 4, None, None, UNTOUCHED),
        "shared": Audit(4, 3, 1, None, None, "too few queries are left (1)"),
    }


def test_the_mean_of_two_remaining_queries_is_reported() -> None:
    row = audit(VALUES, VALUES, samples(q1={"truncated": 1}, q4={"truncated": 1}), None)["truncated"]
    assert (row.remaining, row.without) == (2, 0.25)


def test_a_count_that_the_engine_does_not_keep_is_unknown() -> None:
    unknown = Audit(None, None, None, None, None, NOT_COUNTED)
    rows = audit(VALUES, VALUES, samples(q1={"truncated": 1, "tokens": 9}, q2={"truncated": 0}), {})
    assert rows["special_text"] == unknown and rows["truncated"].texts == 1
    rows = audit(VALUES, VALUES, samples(q1={"truncated": 1}, q2={"tokens": 9}), {})
    assert rows["truncated"] == unknown  # only some queries have a count
    assert audit(VALUES, VALUES, [], {})["truncated"] == unknown


def test_a_query_without_candidates_counts_nothing() -> None:
    nothing = Sample("q2", 0.0, 0, warmup=True)
    assert audit(VALUES, VALUES, [nothing, *samples(q1={"truncated": 1})], {})["truncated"].queries == 1


def test_candidates_that_were_not_examined_are_reported_as_unknown() -> None:
    rows = audit(VALUES, VALUES, samples(q1={"truncated": 1}), None)
    for kind in Oddities._fields:
        assert rows[kind] == Audit(None, None, None, None, None, NOT_EXAMINED)


def test_an_invalid_run_has_counts_but_no_quality() -> None:
    row = audit(VALUES, {}, samples(q1={"truncated": 1}), None)["truncated"]
    assert row == Audit(1, 1, 3, None, None, NO_QUALITY)


def test_an_engine_without_scores_has_no_quality_instead_of_zero() -> None:
    rows = audit(VALUES, dict.fromkeys(VALUES, 0.0), [], {"q1": Oddities(1, 0, 0)})
    assert rows["empty"] == Audit(1, 1, 3, None, None, NO_QUALITY)


def test_a_failed_query_counts_zero_among_the_remaining_queries() -> None:
    values = {"q1": 1.0, "q2": 0.5, "failed": 0.0, "q4": 0.25}
    counted = samples(q1={"truncated": 1}, q2={"truncated": 0}, q4={"truncated": 0})
    assert audit(values, values, counted, {})["truncated"] == Audit(1, 1, 3, 0.25, -0.1875, "")


# Runs


class Counting(Fake):
    """A fake engine that counts documents of more than five words and the query "dog" as cut, <|im_end|> as special."""

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        self._counts += Counts(
            truncated=sum(len(pair.document.split()) > 5 for pair in pairs),
            truncated_queries=int(pairs[0].query == "dog"),
            special_text=sum("<|im_end|>" in pair.document for pair in pairs),
        )
        return super().score(pairs)


DOCUMENTS = {
    "cat": "a cat",
    "cat-again": "a cat",
    "dog": "a dog <|im_end|>",
    "nothing": "",
    "long": "an owl that has very many words",
    "bird": "a bird",
}
LISTS = {
    "q-bird": ("bird", "dog"),
    "q-cat": ("cat", "cat-again"),
    "q-dog": ("dog", "bird"),
    "q-owl": ("long", "nothing"),
}
QRELS = {"q-bird": {"dog": 1}, "q-cat": {"cat": 1, "cat-again": 1}, "q-dog": {"dog": 1}, "q-owl": {"nothing": 1}}


@pytest.fixture
def odd(beir: Callable[..., Path], tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A benchmark of four queries and its candidates; nDCG@10 is 0.6309 (bird), 1 (cat), 1 (dog) and 0.6309 (owl)."""
    folder = beir("odd", DOCUMENTS, {query_id: query_id.removeprefix("q-") for query_id in LISTS}, QRELS)
    ranked = [(query_id, doc_id, rank) for query_id, docs in LISTS.items() for rank, doc_id in enumerate(docs, 1)]
    lines = [f"{query_id} Q0 {doc_id} {rank} {9 - rank} x\n" for query_id, doc_id, rank in ranked]
    (tmp_path / "odd.trec").write_text("".join(lines))
    yield {
        "benchmarks": [{"source": "beir", "path": str(folder)}],
        "candidates": {"source": "run", "path": str(tmp_path / "odd.trec"), "k": 2},
    }


def audited(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "measures.json").read_text())["benchmarks"]["odd"]["audit"])


def approximately(texts: int, queries: int, without: float, difference: float) -> Any:
    numbers = {"texts": texts, "queries": queries, "left": 4 - queries, "reason": ""}
    quality = {"nDCG@10 without": pytest.approx(without), "difference": pytest.approx(difference)}
    return {**numbers, **quality}


def test_a_run_reports_its_odd_texts_and_their_cost_in_quality(
    odd: dict[str, Any],
    config: Callable[..., Path],
    crispbench: Callable[..., Any],
    register: Callable[..., None],
    tmp_path: Path,
) -> None:
    register("counting", Counting)
    path = config(engines={"counting": {"kind": "counting"}, "bm25": {"kind": "bm25"}}, **odd)
    answer = crispbench("run", path, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    whole = (2 + 2 * SECOND) / 4
    without_owl, without_cat = (2 + SECOND) / 3, (1 + 2 * SECOND) / 3
    without_dog = (1 + SECOND) / 2  # the document is a candidate of two queries, bird and dog
    assert audited(tmp_path / "out/counting") == {
        "special_text": approximately(2, 2, without_dog, without_dog - whole),
        "truncated": approximately(1, 1, without_owl, without_owl - whole),
        "truncated_queries": approximately(1, 1, without_cat, without_cat - whole),  # "dog" has the value of "cat"
        "empty": approximately(1, 1, without_owl, without_owl - whole),
        "duplicate": approximately(2, 1, without_cat, without_cat - whole),
        "shared": approximately(2, 1, without_cat, without_cat - whole),
    }
    baseline = audited(tmp_path / "out/bm25")
    assert baseline["truncated"]["texts"] is None and baseline["truncated"]["reason"] == NOT_COUNTED
    assert baseline["empty"]["texts"] == 1
    page = (tmp_path / "out/report/report.md").read_text()
    assert "### odd: odd texts in the prompts" in page
    assert "Odd texts: 1 of 4 queries have cut documents" in answer.out.replace("\n", " ")
    assert "1 of 4 queries were cut to fit the prompt" in page


def test_an_older_store_is_reported_as_not_examined_until_the_run_is_repeated(
    odd: dict[str, Any], config: Callable[..., Path], crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    path, folder = config(engines={"fake": {"kind": "fake"}}, **odd), tmp_path / "out/fake"
    assert crispbench("run", path, "--out", tmp_path / "out").code == 0
    after = (folder / "measures.json").read_bytes()
    store = sqlite3.connect(folder / "scores.sqlite")
    store.execute("DROP TABLE oddities")
    store.close()
    assert crispbench("report", tmp_path / "out").code == 0
    assert {audited(folder)[kind]["reason"] for kind in Oddities._fields} == {NOT_EXAMINED}
    assert {audited(folder)[kind]["texts"] for kind in Oddities._fields} == {None}
    assert crispbench("run", path, "--out", tmp_path / "out").code == 0
    assert (folder / "measures.json").read_bytes() == after


def test_the_demo_checkpoint_counts_the_odd_texts_in_its_prompts(
    odd: dict[str, Any], config: Callable[..., Path], crispbench: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    model = {"kind": "torch", "model": str(ROOT / "checkpoints/demo"), "template": "demo", "device": "cpu"}
    # The long document takes 14 tokens, the others at most 11.
    path = config(engines={"demo": {**model, "max_tokens": 12}}, **odd)
    answer = crispbench("run", path, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    rows = audited(tmp_path / "out/demo")
    assert list(rows) == sorted(KINDS)
    counts = {kind: (rows[kind]["texts"], rows[kind]["queries"]) for kind in KINDS}
    assert counts == {
        "special_text": (2, 2),
        "truncated": (1, 1),
        "truncated_queries": (0, 0),
        "empty": (1, 1),
        "duplicate": (2, 1),
        "shared": (2, 1),
    }
