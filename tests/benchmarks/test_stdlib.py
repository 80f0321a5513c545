"""The embedded benchmarks are large enough and consistent, and their revision names their content."""

import functools
import platform
import re
from pathlib import Path

import pytest

from harness.benchmarks import BenchmarkError, load
from harness.benchmarks.stdlib import collect_code
from harness.records import Benchmark

NAMES = ["stdlib-code", "stdlib-topics"]


@pytest.fixture(scope="module", params=NAMES)
def benchmark_of(request: pytest.FixtureRequest) -> Benchmark:
    return whole(request.param)


@functools.cache
def whole(name: str) -> Benchmark:
    return load("stdlib", {"name": name})


def test_every_judgement_has_its_query_and_document(benchmark_of: Benchmark) -> None:
    assert benchmark_of.queries.keys() == benchmark_of.qrels.keys()
    for grades in benchmark_of.qrels.values():
        assert grades.keys() <= benchmark_of.documents.keys()
        assert max(grades.values()) > 0


def test_no_text_is_empty_and_no_query_occurs_twice(benchmark_of: Benchmark) -> None:
    for texts in (benchmark_of.queries, benchmark_of.documents):
        assert all(text.strip() for text in texts.values())
    assert len(set(benchmark_of.queries.values())) == len(benchmark_of.queries)


def test_no_id_holds_white_space(benchmark_of: Benchmark) -> None:
    assert not [key for key in (*benchmark_of.queries, *benchmark_of.documents) if key.split() != [key]]


def test_no_query_shares_its_id_with_a_document(benchmark_of: Benchmark) -> None:
    assert not benchmark_of.queries.keys() & benchmark_of.documents.keys()


def test_the_revision_names_the_python_and_the_content(benchmark_of: Benchmark) -> None:
    python = re.escape(platform.python_version())
    assert re.fullmatch(rf"python-{python}\+sha256:[0-9a-f]{{16}}", benchmark_of.revision)


def test_stdlib_code_has_thousands_of_functions() -> None:
    benchmark = whole("stdlib-code")
    assert 3000 < len(benchmark.queries) <= len(benchmark.documents) < 9000
    assert benchmark.analysis == "code"
    assert benchmark.queries["bisect.py:insort_right?"].startswith("Insert item x in list a, and keep it sorted")
    assert benchmark.qrels["bisect.py:insort_right?"] == {"bisect.py:insort_right": 1, "bisect.py:insort_left": 1}
    assert benchmark.documents["bisect.py:insort_left"].startswith("if key is None:\n    lo = bisect_left(")


def test_a_sample_is_a_subset_with_a_different_revision(benchmark_of: Benchmark) -> None:
    few = load("stdlib", {"name": benchmark_of.name, "queries": 20})
    assert len(few.queries) == 20 and few.queries.items() <= benchmark_of.queries.items()
    assert few.documents == benchmark_of.documents
    assert few.revision != benchmark_of.revision


def test_equal_bodies_are_one_document_and_equal_queries_one_query(tmp_path: Path) -> None:
    def function(query: str, number: int) -> str:
        return f'def f():\n    "{query}"\n    return "twenty characters {number}"\n'

    source = function("The same words.", 1) + function("The same words.", 2) + function("Three other words.", 2)
    (tmp_path / "a.py").write_text(source)
    (tmp_path / "b.py").write_text(function("Three new words.", 3))
    collection = collect_code(tmp_path)
    assert collection.documents.keys() == {"a.py:f", "a.py:f#2", "b.py:f"}
    assert collection.queries == {
        "a.py:f?": "The same words.", "a.py:f#3?": "Three other words.", "b.py:f?": "Three new words.",
    }  # fmt: skip
    assert collection.qrels == {
        "a.py:f?": {"a.py:f": 1, "a.py:f#2": 1}, "a.py:f#3?": {"a.py:f#2": 1}, "b.py:f?": {"b.py:f": 1},
    }  # fmt: skip


def test_an_installation_without_sources_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"no documented functions; stdlib-code needs .* \.py files$"):
        collect_code(tmp_path)
