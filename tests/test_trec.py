"""Run files are read exactly or refused with the line; evaluators keep the order of the files that we write."""

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.benchmarks import BenchmarkError
from harness.candidates.trec import as_trec_eval_ranks, read_run, write_run

RUN = """\
q1 Q0 d2 1 1.5 tag
q1 Q0 d1 2 -2e-3 tag
q2\tQ0\td1\t0\t7\ttag
"""
SCORES = {"q1": {"d2": 1.5, "d1": -0.002}, "q2": {"d1": 7.0}}

ids = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=6)


@pytest.mark.parametrize(
    "content",
    [RUN.encode(), gzip.compress(RUN.encode()), RUN.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + RUN.encode()],
    ids=["plain", "gzip", "CRLF", "BOM"],
)
def test_a_run_is_read_from_any_encoding_and_compression(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bm25.trec"  # gzip is recognised by its first bytes, not by the name
    path.write_bytes(content)
    assert read_run(path) == SCORES
    assert list(read_run(path)["q1"]) == ["d2", "d1"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("q1 Q0 d9 1 0.5", "has 5 columns; expected the 6 of a TREC run"),
        ("q1 Q0 d 9 1 0.5 tag", "has 7 columns"),
        ("q1 Q0 d9 1 high tag", "score 'high' is not a finite number"),
        ("q1 Q0 d9 1 nan tag", "score 'nan' is not a finite number"),
        ("q1 Q0 d9 1 -inf tag", "score '-inf' is not a finite number"),
        ("q1 Q0 d9 1 1e999 tag", "score '1e999' is not a finite number"),
        ("q1 Q0 d2 9 0.5 tag", "document 'd2' is listed twice for query 'q1'"),
    ],
)
def test_a_bad_line_is_refused_with_its_file_and_number(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bm25.trec"
    path.write_text(f"{RUN}\n{line}\n")  # after an empty line
    with pytest.raises(BenchmarkError) as refused:
        read_run(path)
    assert str(refused.value).startswith(f"{path}:5: ") and complaint in str(refused.value)


def test_a_missing_run_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no such file; expected a TREC run"):
        read_run(tmp_path / "bm25.trec")


def test_a_truncated_run_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bm25.trec.gz"
    lines = "".join(f"q Q0 d{number} 0 {number} tag\n" for number in range(100))
    path.write_bytes(gzip.compress(lines.encode())[:-20])
    with pytest.raises(BenchmarkError, match="cannot be read"):
        read_run(path)


def test_equal_scores_are_ordered_by_document_id_descending_as_strings() -> None:
    assert as_trec_eval_ranks({"d10": 0.5, "d9": 0.5, "é": 0.5, "a": 0.75}) == ["a", "é", "d9", "d10"]


@settings(max_examples=50, deadline=None)
@given(lists=st.dictionaries(ids, st.lists(ids, min_size=1, max_size=6, unique=True), max_size=4), packed=st.booleans())
def test_a_written_run_is_read_back_in_the_same_order_by_any_tie_rule(
    lists: dict[str, list[str]], packed: bool
) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / ("run.trec.gz" if packed else "run.trec")
        write_run(path, lists, "crispbench")
        run = read_run(path)
        assert (path.read_bytes()[:2] == b"\x1f\x8b") == packed
    assert {query_id: as_trec_eval_ranks(scores) for query_id, scores in run.items()} == lists
    assert {query_id: list(scores) for query_id, scores in run.items()} == lists
    assert all(list(scores.values()) == list(range(len(scores), 0, -1)) for scores in run.values())
