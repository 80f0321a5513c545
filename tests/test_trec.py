"""Run files are read exactly or refused with the line; evaluators keep the order of the files that we write."""

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.benchmarks import BenchmarkError
from harness.candidates.trec import as_trec_eval_ranks, read_run, read_run_file, write_run

RUN = """\
q1 Q0 d2 1 1.5 tag
q1 Q0 d1 2 -2e-3 tag
q2\tQ0\td1\t0\t7\ttag
"""
SCORES = {"q1": {"d2": 1.5, "d1": -0.002}, "q2": {"d1": 7.0}}

ids = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=6)
query_ids = ids.filter(lambda query_id: not query_id.startswith("#"))


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
        ("q1 Q0 d9 1 0.5", "has 5 columns; expected the 6 of a TREC run: query, Q0, document, rank, score, tag; the "
                           "tag or Q0 is missing"),
        ("q1 Q0 d 9 1 0.5 tag", "has 7 columns; expected the 6 of a TREC run: query, Q0, document, rank, score, tag; "
                                "the sixth is a number, so white space may be inside an id"),
        ("q 1 Q0 d9 1 0.5 tag", "white space may be inside an id"),
        ("q1 Q0 New York City 1 0.5 tag", "white space may be inside an id"),
        ("q1 Q0 d9\u00a0 1 0.5 tag", "holds white space that separates no columns"),
        ("q1 0 d9 1", "has 4 columns; expected the 6 of a TREC run: query, Q0, document, rank, score, tag; it looks "
                      "like a judgement, were the two files exchanged?"),
        ("q1 Q0 d\u00a09 1 0.5 tag", "id 'd\\xa09' holds white space that separates no columns"),
        ("q1 Q0 d9 1 high tag", "score 'high' is not a finite number"),
        ("q1 Q0 d9 1 nan tag", "score 'nan' is not a finite number"),
        ("q1 Q0 d9 1 -inf tag", "score '-inf' is not a finite number"),
        ("q1 Q0 d9 1 1e999 tag", "score '1e999' is not a finite number"),
        ("q1 Q0 d2 9 0.5 tag", "document 'd2' is listed twice for query 'q1', with scores 1.5 in line 1 and 0.5; keep"),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_with_its_file_and_number(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bm25.trec"
    path.write_text(f"{RUN}\n{line}\n", encoding="utf-8")  # after an empty line
    with pytest.raises(BenchmarkError) as refused:
        read_run(path)
    assert str(refused.value).startswith(f"{path}:5: ") and complaint in str(refused.value)


def test_lines_are_read_as_trec_eval_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_bytes(
        b"# first stage\n  # k = 2\n\n  q1   Q0\td2\v1  1.5  tag  and more text\r\n"
        b"\xef\xbb\xbfq1 Q0 d1 2 -2e-3 tag #9\nq2\tQ0 d1\t0 7 tag\t\n"
    )
    run, oddities = read_run_file(path)
    assert run == SCORES
    assert oddities.warnings("run", run) == ()


def test_measure_gives_trec_evals_values_for_untidy_files(tmp_path: Path, crispbench: Callable[..., Any]) -> None:
    """Golden values: `trec_eval -c -m map -m ndcg_cut.10` of trec_eval 10.0 on these two files."""
    (tmp_path / "qrels").write_bytes(b"# 2 assessors\n7\t0 b#2\t1\r\n  8 0\td 2  \t\n7 0\v a 0\n9 Q0\fz 1\n")
    (tmp_path / "run").write_bytes(
        b"\n# k = 3\n7 Q0 a 1 2.5 a tag # 1\n \t7\tQ0 b#2 2 1e0 a tag\n8 Q0\tc 1 9 t\n8 Q0 d 2 8 t\n8 Q0 e 3 8 t\n"
    )
    answer = crispbench("measure", tmp_path / "run", tmp_path / "qrels", "--measure", "AP", "--measure", "nDCG@10")
    assert answer.code == 0
    assert answer.out == "AP\tall\t0.2778\t(3 queries)\nnDCG@10\tall\t0.3770\t(3 queries)\n"
    warning = f"1 of 3 judged queries are not in {tmp_path / 'run'} and count 0: 9"
    assert answer.err == f"crispbench: {warning}\n"
    assert json.loads(crispbench("measure", tmp_path / "run", tmp_path / "qrels", "--json").out)["warnings"] == [
        warning
    ]


def test_repeated_and_commented_results_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text(RUN + "q1 Q0 d2 1 1.50 other\n#q2 Q0 d5 1 9 tag\n")
    run, oddities = read_run_file(path)
    assert run == SCORES
    assert oddities.warnings("run", run) == (
        "run: queries that list a document twice with one score; it is used once: 1 (q1)",
        "run: lines that look like results but are comments, because of their #: 1 (line 5)",
    )
    assert len(oddities.warnings("run", ["q2"])) == 1  # q1 is not asked for


def test_a_header_is_named_as_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("qid Q0 docno rank score tag\n" + RUN)
    with pytest.raises(BenchmarkError, match=r"run:1: score 'score' is .*first line looks like a header, remove it"):
        read_run(path)


@pytest.mark.parametrize(
    ("lists", "complaint"),
    [({"q": ["New York"]}, "holds white space"), ({"#q": ["d"]}, "query id '#q' begins with #")],
)
def test_an_id_that_would_be_read_back_differently_is_not_written(
    tmp_path: Path, lists: dict[str, list[str]], complaint: str
) -> None:
    with pytest.raises(BenchmarkError, match=complaint):
        write_run(tmp_path / "run", lists, "tag")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_pipe_is_read_as_a_file(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = (RUN + "q1 Q0 d2 9 0.5 tag\n").encode()
    for complete in (content[: len(RUN)], content):
        writer = threading.Thread(target=path.write_bytes, args=(gzip.compress(complete) if packed else complete,))
        writer.start()
        if complete == content:
            with pytest.raises(BenchmarkError, match=r"with scores 1\.5 and 0\.5; keep one of them"):
                read_run(path)
        else:
            assert read_run(path) == SCORES
        writer.join()


def test_measure_reads_standard_input_as_trec_eval_does(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("q1 0 d2 1\nq2 0 d1 1\n")
    command = [sys.executable, "-m", "crispbench", "measure", "-", str(tmp_path / "qrels"), "--measure", "RR"]
    answer = subprocess.run(command, input=gzip.compress(RUN.encode()), capture_output=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, b"RR\tall\t1.0000\t(2 queries)\n", b"")


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
@given(
    lists=st.dictionaries(query_ids, st.lists(ids, min_size=1, max_size=6, unique=True), max_size=4),
    packed=st.booleans(),
)
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
