"""BEIR folders: content, revisions, samples of queries and warnings."""

import csv
import gzip
import io
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.benchmarks import load
from harness.benchmarks.base import absent_documents
from harness.records import Benchmark

CORPUS = """\
{"_id": "d1", "title": "Cats", "text": "sleep a lot."}
{"_id": "d2", "title": null, "text": "Dogs do not."}
{"_id": "d3", "text": "Birds sing."}
"""
QUERIES = """\
{"_id": "q1", "text": "who sleeps?"}
{"_id": "q2", "text": "who sings?"}
{"_id": "unjudged", "text": "who asks?"}
"""
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td3\t1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "animals")


def write(folder: Path, corpus: str = CORPUS, queries: str = QUERIES, qrels: str = QRELS) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_bytes(corpus.encode())
    (folder / "queries.jsonl").write_bytes(queries.encode())
    (folder / "qrels/test.tsv").write_bytes(qrels.encode())
    return folder


def read(folder: Path, **options: Any) -> Benchmark:
    return load("beir", {"path": str(folder), **options})


# Content


def test_a_folder_becomes_queries_documents_and_judgements(folder: Path) -> None:
    benchmark = read(folder)
    assert benchmark.name == "animals"
    assert benchmark.documents == {"d1": "Cats sleep a lot.", "d2": "Dogs do not.", "d3": "Birds sing."}
    assert benchmark.queries == {"q1": "who sleeps?", "q2": "who sings?"}
    assert benchmark.qrels == {"q1": {"d1": 2, "d2": 0}, "q2": {"d3": 1}}
    assert (benchmark.split, benchmark.analysis, benchmark.remove_self) == ("test", "english", False)
    assert benchmark.warnings == ()
    assert re.fullmatch(r"sha256:[0-9a-f]{16}", benchmark.revision)


def test_options_set_name_split_and_analysis(folder: Path) -> None:
    (folder / "qrels/test.tsv").rename(folder / "qrels/dev.tsv")
    benchmark = read(folder, name="Zoo", split="dev", analysis="code")
    assert (benchmark.name, benchmark.split, benchmark.analysis) == ("Zoo", "dev", "code")


def test_compression_bom_and_line_endings_do_not_change_the_revision(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    (odd / "qrels").mkdir(parents=True)
    (odd / "corpus.jsonl.gz").write_bytes(gzip.compress(CORPUS.encode()))
    (odd / "queries.jsonl").write_bytes(gzip.compress(QUERIES.encode()))  # gzip without the suffix
    (odd / "qrels/test.tsv").write_bytes(b"\xef\xbb\xbf" + QRELS.replace("\n", "\r\n").encode())
    assert read(odd).documents == read(folder).documents
    assert read(odd).revision == read(folder).revision


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("corpus.jsonl", "Birds", "Bees"), ("queries.jsonl", "sings", "hums"), ("qrels/test.tsv", "d1\t2", "d1\t1")],
)
def test_any_change_of_content_changes_the_revision(folder: Path, file: str, old: str, new: str) -> None:
    before = read(folder).revision
    (folder / file).write_text((folder / file).read_text().replace(old, new))
    assert read(folder).revision != before


def test_an_unjudged_query_does_not_change_the_revision(folder: Path) -> None:
    before = read(folder).revision
    (folder / "queries.jsonl").write_text(QUERIES.replace("who asks?", "why?"))
    assert read(folder).revision == before


def test_numeric_ids_are_read_as_strings(tmp_path: Path) -> None:
    corpus, queries = '{"_id": 7, "text": "seven"}\n', '{"_id": 1, "text": "number"}\n'
    benchmark = read(write(tmp_path / "n", corpus, queries, "1\t7\t1\n"))
    assert (benchmark.documents, benchmark.qrels) == ({"7": "seven"}, {"1": {"7": 1}})


@pytest.mark.parametrize("qrels", ["q1\td1\t1\n", "q1 0 d1 1\n", "q1\t0\td1\t1\n", "\nq1\td1\t1\n\n", "q1\td1\t1"])
def test_qrels_may_lack_a_header_or_have_four_columns(tmp_path: Path, qrels: str) -> None:
    assert read(write(tmp_path / "q", qrels=qrels)).qrels == {"q1": {"d1": 1}}


def test_a_negative_grade_and_a_repeated_judgement_are_kept(tmp_path: Path) -> None:
    benchmark = read(write(tmp_path / "q", qrels="q1\td1\t1\nq1\td2\t-2\nq1\td1\t1\n"))
    assert benchmark.qrels == {"q1": {"d1": 1, "d2": -2}}


def test_ids_and_texts_keep_line_separators_that_are_not_line_feeds(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0cfour"
    corpus = json.dumps({"_id": "d1", "text": text}, ensure_ascii=False).replace("\\f", "\\u000c") + "\n"
    assert "\u2028" in corpus
    assert read(write(tmp_path / "u", corpus, qrels="q1\td1\t1\n")).documents == {"d1": text}


def judgements(pairs: list[tuple[str, str]], ending: str) -> str:
    """The file that `csv`, with which BEIR's loader reads, writes: ids with a quote are quoted."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator=ending)
    writer.writerows([("query-id", "corpus-id", "score"), *((*pair, 1) for pair in pairs)])
    return file.getvalue()


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
identifiers = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8)


@settings(deadline=None)
@given(
    documents=st.dictionaries(identifiers, st.tuples(words, words), min_size=1, max_size=5),
    queries=st.dictionaries(identifiers, words, min_size=1, max_size=4),
    ascii_only=st.booleans(),
    ending=st.sampled_from(["\n", "\r\n"]),
)
@example(documents={"d": ("a\u2028b", "c\x85d")}, queries={"q": "\u2029"}, ascii_only=False, ending="\r\n")
def test_any_content_is_read_back(
    documents: dict[str, tuple[str, str]], queries: dict[str, str], ascii_only: bool, ending: str
) -> None:
    def lines(rows: list[dict[str, str]]) -> str:
        return "".join(json.dumps(row, ensure_ascii=ascii_only) + ending for row in rows)

    with TemporaryDirectory() as directory:
        folder = write(
            Path(directory) / "any",
            lines([{"_id": key, "title": title, "text": text} for key, (title, text) in documents.items()]),
            lines([{"_id": key, "text": text} for key, text in queries.items()]),
            judgements([(query, document) for query in queries for document in documents], ending),
        )
        benchmark = read(folder)
    assert benchmark.documents == {key: f"{title} {text}".strip() for key, (title, text) in documents.items()}
    assert benchmark.queries == queries
    assert benchmark.qrels == {query: dict.fromkeys(documents, 1) for query in queries}


def test_ids_with_white_space_are_read_where_the_corpus_has_them(tmp_path: Path) -> None:
    corpus, qrels = CORPUS.replace("d1", "New York"), QRELS.replace("d1", "New York")
    assert read(write(tmp_path / "names", corpus, qrels=qrels)).qrels["q1"] == {"New York": 2, "d2": 0}


# Samples of queries


def test_a_sample_of_queries_is_reproducible_and_keeps_its_judgements(tmp_path: Path) -> None:
    names = [f"q{number}" for number in range(50)]
    queries = [json.dumps({"_id": name, "text": name}) for name in names]
    qrels = [f"{name}\td1\t1" for name in names]
    forwards = write(tmp_path / "f", queries="\n".join(queries), qrels="\n".join(qrels))
    backwards = write(tmp_path / "b", queries="\n".join(queries), qrels="\n".join(reversed(qrels)))
    few = read(forwards, queries=7)
    assert len(few.queries) == 7
    assert few.queries.keys() == few.qrels.keys() == read(backwards, queries=7).queries.keys()
    assert few.revision == read(backwards, queries=7).revision != read(forwards).revision


def test_a_sample_larger_than_the_benchmark_is_the_whole_benchmark(folder: Path) -> None:
    assert read(folder, queries=100).queries == read(folder).queries


# Removal of the query itself


@pytest.mark.parametrize("name", ["ArguAna", "quora", "QuoraRetrieval", "FiQA2018", "fever", "MSMARCO"])
def test_benchmarks_whose_queries_are_documents_remove_the_query_itself(folder: Path, name: str) -> None:
    assert read(folder, name=name).remove_self
    assert not read(folder, name=name, remove_self=False).remove_self


@pytest.mark.parametrize("name", ["miracl", "SciFact", "arguana-like"])
def test_other_benchmarks_keep_the_document_with_the_id_of_the_query(folder: Path, name: str) -> None:
    assert not read(folder, name=name).remove_self
    assert read(folder, name=name, remove_self=True).remove_self


def test_queries_that_share_ids_with_documents_cause_a_warning_without_remove_self(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", queries='{"_id": "d1", "text": "who sleeps?"}\n', qrels="d1\td2\t1\n")
    assert read(folder).warnings == (
        "queries that share their id with a document; set `remove_self: true` if it is the query itself: 1 (d1)",
    )
    assert read(folder, remove_self=False).warnings == read(folder, name="arguana").warnings == ()


# Warnings


def test_empty_documents_and_queries_are_kept_and_counted(tmp_path: Path) -> None:
    corpus = CORPUS + '{"_id": "d4", "title": " ", "text": ""}\n'
    benchmark = read(write(tmp_path / "e", corpus, QUERIES.replace("who sings?", " ")))
    assert benchmark.documents["d4"] == ""
    assert benchmark.warnings == ("empty documents: 1 (d4)", "empty queries: 1 (q2)")


def test_missing_texts_are_empty_and_a_title_alone_is_a_document(tmp_path: Path) -> None:
    corpus = (
        '{"_id": "d1", "title": NaN, "text": "Cats.", "url": "x"}\n{"_id": "d2", "title": "Dogs", "text": null}\n'
        '{"_id": "d3", "title": "Birds"}\n{"_id": "d4", "title": null, "text": NaN}\n'
    )
    benchmark = read(write(tmp_path / "n", corpus, '{"_id": "q1", "text": "?"}\n{"_id": "q2", "text": null}\n'))
    assert benchmark.documents == {"d1": "Cats.", "d2": "Dogs", "d3": "Birds", "d4": ""}
    assert benchmark.queries == {"q1": "?", "q2": ""}
    assert benchmark.warnings == ("empty documents: 1 (d4)", "empty queries: 1 (q2)")


def test_lines_that_repeat_earlier_ones_count_once_and_are_counted(tmp_path: Path) -> None:
    again = '{"_id": "d2", "text": "Dogs do not.", "source": "a second crawl"}\n'
    twice = write(tmp_path / "t", CORPUS + again, QUERIES + QUERIES, QRELS + "q1\td1\t2.0\n")
    assert read(twice).revision == read(write(tmp_path / "o")).revision
    assert read(twice).warnings == (
        "test.tsv: judgements that repeat an earlier line and count once: 1 (line 5)",
        "queries.jsonl: lines that share id and text with an earlier line and count once: 3 (q1, q2, unjudged)",
        "corpus.jsonl: lines that share id and text with an earlier line and count once: 1 (d2)",
    )


@pytest.mark.parametrize(("lost", "alarms"), [(1, 0), (2, 1)])
def test_a_tenth_of_the_relevant_documents_may_be_missing_before_an_alarm(
    tmp_path: Path, lost: int, alarms: int
) -> None:
    corpus = "".join(json.dumps({"_id": f"d{number}", "text": "x"}) + "\n" for number in range(1, 19))
    qrels = "".join(f"q1\td{number}\t1\n" for number in range(1, 19 + lost)) + "q1\tx\t0\n"
    benchmark = read(write(tmp_path / "a", corpus, qrels=qrels))
    assert len(absent_documents(benchmark.documents, benchmark.qrels)) == alarms


def test_judgements_of_unknown_documents_are_kept_and_counted(tmp_path: Path) -> None:
    unknown = "".join(f"q1\tx{number}\t1\n" for number in range(7))
    benchmark = read(write(tmp_path / "u", qrels=QRELS + unknown))
    assert benchmark.qrels["q1"]["x6"] == 1
    assert benchmark.warnings == (
        "judged documents that are not in the corpus and can never be found: 7 (x0, x1, x2, x3, x4, ...)",
    )


def test_a_query_without_a_relevant_document_is_kept_and_counted(tmp_path: Path) -> None:
    benchmark = read(write(tmp_path / "z", qrels="q1\td1\t0\nq2\td3\t1\n"))
    assert set(benchmark.queries) == {"q1", "q2"}
    assert benchmark.warnings == ("queries without a relevant document, which can only score 0: 1 (q1)",)
