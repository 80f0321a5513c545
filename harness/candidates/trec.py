"""TREC run files: `query Q0 document rank score tag`, plain or gzip."""

import gzip
import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engines.storage import replacing
from harness.benchmarks.base import BenchmarkError, count_warning
from harness.benchmarks.lines import Line, beginning, columns, is_comment, read_lines

Run = dict[str, dict[str, float]]  # query_id -> doc_id -> score, in the order of the file
WIDTH = 6  # columns of a run


class RunOddities(NamedTuple):
    """Lines of a run file that are used but that a reader should know about."""

    ranks: Sequence[str] = ()  # query_ids whose rank column puts a document above one with a higher score
    repeated: Sequence[str] = ()  # query_ids that list a document twice with the same score
    comments: Sequence[str] = ()  # `line 3` for every comment that has the columns of a run

    def warnings(self, file: str, query_ids: Container[str]) -> tuple[str, ...]:
        """One line for each kind that concerns these queries; `file` is the name of the run file."""
        ranks, repeated = ([key for key in kind if key in query_ids] for kind in (self.ranks, self.repeated))
        return (
            *count_warning(ranks, f"{file}: queries whose rank column disagrees with their scores; the scores decide"),
            *count_warning(repeated, f"{file}: queries that list a document twice with one score; it is used once"),
            *count_warning(self.comments, f"{file}: lines that look like results but are comments, because of their #"),
        )


class RunFile(NamedTuple):
    """The scores of a run file, and its oddities."""

    scores: Run
    oddities: RunOddities


def read_run(path: Path) -> Run:
    """Scores per query. The rank column is not used: BEIR writes 0 on every line. Raises BenchmarkError."""
    return read_run_file(path).scores


def read_run_file(path: Path) -> RunFile:
    """Scores per query and oddities of a run as trec_eval 10 reads it (`get_trec_results.c`).

    White space of any kind separates the columns, lines that begin with `#` are comments, and text behind the tag is
    not read. A line that repeats an earlier one counts once. Raises BenchmarkError with file, line and probable cause
    for any other line, a score that is not a finite number, and two scores of one document for one query.
    """
    if path.is_dir() or not path.exists():
        raise BenchmarkError(f"{path}: no such file; expected a TREC run of query, Q0, document, rank, score and tag")
    run: Run = {}
    ranks: dict[str, list[str]] = {}  # in the order of the run's documents
    repeated: dict[str, None] = {}
    comments: list[str] = []
    for line in read_lines(path):
        if is_comment(line.text):
            if _is_result(columns(line.text)):
                comments.append(f"line {line.number}")
            continue
        query_id, doc_id, rank, score = _result(line, path, first=not run)
        documents = run.setdefault(query_id, {})
        if doc_id not in documents:
            documents[doc_id] = score
            ranks.setdefault(query_id, []).append(rank)
        elif documents[doc_id] == score:
            repeated[query_id] = None
        else:
            raise BenchmarkError(
                f"{path}:{line.number}: document {beginning(doc_id)} is listed twice for query {beginning(query_id)}, "
                f"with scores {documents[doc_id]:g}{_in_line(query_id, doc_id, path)} and {score:g}; keep one of them"
            )
    odd = (query_id for query_id, scores in run.items() if _disagree(ranks[query_id], list(scores.values())))
    return RunFile(run, RunOddities(tuple(odd), tuple(repeated), tuple(comments)))


def line_of(query_id: str, doc_id: str, path: Path) -> int | None:
    """The number of the first line that lists a document for a query; None if the file is a pipe, which is gone."""
    if not path.is_file():
        return None
    lines = ((line.number, columns(line.text)) for line in read_lines(path) if not is_comment(line.text))
    return next((number for number, cells in lines if (cells[0], cells[2]) == (query_id, doc_id)), None)


def _in_line(query_id: str, doc_id: str, path: Path) -> str:
    number = line_of(query_id, doc_id, path)
    return "" if number is None else f" in line {number}"


def write_run(path: Path, lists: Mapping[str, Sequence[str]], tag: str) -> None:
    """Write ranked lists as a run with scores n, n-1, ..., 1, so that every evaluator keeps their order.

    The file is replaced as a whole. Raises BenchmarkError for an id that a run file cannot represent: one with white
    space, or a query's that begins with `#`, which trec_eval 10 takes for a comment.
    """
    start = gzip.open if path.suffix == ".gz" else open
    with replacing(path) as draft, start(draft, "wt", encoding="utf-8") as file:
        for query_id, docs in lists.items():
            for rank, doc_id in enumerate(docs, start=1):
                if f"{query_id} {doc_id}".split() != [query_id, doc_id]:
                    raise BenchmarkError(
                        f"{path}: id {query_id!r} or {doc_id!r} holds white space, which a run file cannot represent"
                    )
                if is_comment(query_id):
                    raise BenchmarkError(
                        f"{path}: query id {query_id!r} begins with #, which makes its lines comments in a run file"
                    )
                file.write(f"{query_id} Q0 {doc_id} {rank} {len(docs) - rank + 1} {tag}\n")


def as_trec_eval_ranks(scores: Mapping[str, float]) -> list[str]:
    """Documents by score, equal scores by document id, both descending: trec_eval's order (form_res_rels.c)."""
    return sorted(scores, key=lambda doc_id: (scores[doc_id], doc_id.encode()), reverse=True)


def _result(line: Line, path: Path, *, first: bool) -> tuple[str, str, str, float]:
    """Query, document, rank and score of a line. Raises BenchmarkError."""
    cells = line.text.split()
    if len(cells) != WIDTH or not line.text.isascii():  # else Python and C split alike, and Python is faster
        cells = columns(line.text)
        _check_columns(cells, line, path)
    query_id, _, doc_id, rank, score_text = cells[: WIDTH - 1]
    score = _number(score_text)
    if not math.isfinite(score):
        header = first and not any(math.isfinite(_number(cell)) for cell in cells[3:5])
        raise BenchmarkError(
            f"{path}:{line.number}: score {beginning(score_text)} is not a finite number; "
            f"{'the first line looks like a header, remove it' if header else 'repair the line'}"
        )
    return query_id, doc_id, rank, score


def _check_columns(cells: Sequence[str], line: Line, path: Path) -> None:
    if len(cells) < WIDTH or (len(cells) > WIDTH and math.isfinite(_number(cells[WIDTH - 1]))):
        raise BenchmarkError(
            f"{path}:{line.number}: {beginning(line.text)} has {len(cells)} columns; expected the 6 of a TREC run: "
            f"query, Q0, document, rank, score, tag; {_cause(cells)}"
        )
    for identifier in (cells[0], cells[2]):
        if identifier.split() != [identifier]:
            raise BenchmarkError(
                f"{path}:{line.number}: id {beginning(identifier)} holds white space that separates no columns, "
                "such as a no-break space; write plain spaces or tabs"
            )


def _is_result(cells: Sequence[str]) -> bool:
    return len(cells) >= WIDTH and math.isfinite(_number(cells[WIDTH - 2]))


def _cause(cells: Sequence[str]) -> str:
    """The probable reason for a wrong number of columns."""
    if len(cells) > WIDTH:
        return "the sixth is a number, so white space may be inside an id"
    if len(cells) == WIDTH - 1:
        return "the tag or Q0 is missing"
    if len(cells) in (3, 4):
        return "it looks like a judgement, were the two files exchanged?"
    return "repair the line"


def _number(text: str) -> float:
    try:
        return float(text.replace("_", "no number"))  # Python reads 1_0 as 10
    except ValueError:
        return math.nan


def _disagree(ranks: Sequence[str], scores: Sequence[float]) -> bool:
    """Whether ranks and scores give different orders. One rank on all lines, such as BEIR's 0, gives no order."""
    if len(set(ranks)) == 1:
        return False
    numbers = [_number(rank) for rank in ranks]
    if not all(map(math.isfinite, numbers)):
        return True
    by_rank = [score for _, score in sorted(zip(numbers, (-score for score in scores), strict=True))]
    return by_rank != sorted(by_rank)
