"""Entries of the index of `help()` become queries in words, graded by the references of pydoc."""

import re

import pytest

from harness.benchmarks import load
from harness.benchmarks.topics import entries, texts
from harness.records import Benchmark


@pytest.fixture(scope="module")
def topics() -> Benchmark:
    return load("stdlib", {"name": "stdlib-topics"})


def test_the_index_has_the_size_of_a_benchmark(topics: Benchmark) -> None:
    assert len(topics.documents) >= 70 and len(topics.queries) >= 100
    assert sum(len(grades) for grades in topics.qrels.values()) >= 300
    assert topics.analysis == "english"


@pytest.mark.parametrize(
    ("query_id", "query", "grades"),
    [
        ("keyword:for", "for statement", {"for": 2, "while": 1, "break": 1, "continue": 1}),
        ("keyword:elif", "elif clause", {"if": 2, "truth": 1}),  # an alias of `if`
        ("topic:AUGMENTEDASSIGNMENT", "augmented assignment", {"augassign": 2, "numeric-types": 1}),
        ("topic:NAMESPACES", "namespaces", None),  # one word, although it begins with another one
        ("symbol:**", "** (asterisk)", {"power": 2, "operator-summary": 1}),
        ("symbol:(", "( ) (parenthesis)", {"typesseq": 2, "typesfunctions": 1, "calls": 1}),
    ],
)
def test_an_entry_becomes_a_query_in_words_with_the_grades_of_pydoc(
    topics: Benchmark, query_id: str, query: str, grades: dict[str, int] | None
) -> None:
    assert topics.queries[query_id] == query
    assert grades is None or topics.qrels[query_id] == grades


def test_every_entry_has_exactly_one_main_text_and_a_word_to_search_for() -> None:
    for entry in entries():
        assert sorted(entry.grades.values())[-1] == 2
        assert list(entry.grades.values()).count(2) == 1
        assert re.search(r"\w", entry.query)


def test_names_without_a_text_have_no_query(topics: Benchmark) -> None:
    assert not {"keyword:None", "symbol:`"} & topics.queries.keys()


def test_symbols_with_the_same_answer_are_one_query(topics: Benchmark) -> None:
    assert topics.queries["symbol:+="].startswith("+= -= *= /= ")
    assert "symbol:-=" not in topics.queries


def test_documents_are_the_unchanged_help_texts(topics: Benchmark) -> None:
    assert topics.documents == texts
