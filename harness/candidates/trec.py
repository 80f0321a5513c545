"""TREC run files: `query Q0 document rank score tag`, plain or gzip."""

import gzip
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engines.storage import replacing
from harness.benchmarks.base import BenchmarkError
from harness.benchmarks.lines import beginning, read_lines

Run = dict[str, dict[str, float]]  # query_id -> doc_id -> score, in the order of the file


class RunFile(NamedTuple):
    """The scores of a run file, and the queries with odd ranks."""

    scores: Run
    odd_ranks: tuple[str, ...]  # query_ids whose rank column puts a document above one with a higher score


def read_run(path: Path) -> Run:
    """Scores per query. The rank column is not used: BEIR writes 0 on every line.

    Raises BenchmarkError with file and line for a malformed line, a score that is not a finite number, or a
    document that is listed twice for one query.
    """
    return read_run_file(path).scores


def read_run_file(path: Path) -> RunFile:
    """Scores per query, and the queries whose rank column disagrees with the scores. Raises BenchmarkError."""
    if not path.is_file():
        raise BenchmarkError(f"{path}: no such file; expected a TREC run of query, Q0, document, rank, score and tag")
    run: Run = {}
    ranks: dict[str, list[str]] = {}  # in the order of the run's documents
    for number, text in read_lines(path):
        columns = text.split()
        if len(columns) != 6:
            raise BenchmarkError(
                f"{path}:{number}: {beginning(text)} has {len(columns)} columns; expected the 6 of a TREC run: "
                "query, Q0, document, rank, score, tag"
            )
        query_id, _, doc_id, rank, score_text, _ = columns
        score = _number(score_text)
        if not math.isfinite(score):
            raise BenchmarkError(
                f"{path}:{number}: score {beginning(score_text)} is not a finite number; repair the line"
            )
        documents = run.setdefault(query_id, {})
        if doc_id in documents:
            raise BenchmarkError(
                f"{path}:{number}: document {beginning(doc_id)} is listed twice for query {beginning(query_id)}"
            )
        documents[doc_id] = score
        ranks.setdefault(query_id, []).append(rank)
    odd = (query_id for query_id, scores in run.items() if _disagree(ranks[query_id], list(scores.values())))
    return RunFile(run, tuple(odd))


def write_run(path: Path, lists: Mapping[str, Sequence[str]], tag: str) -> None:
    """Write ranked lists as a run with scores n, n-1, ..., 1, so that every evaluator keeps their order.

    The file is replaced as a whole. Raises BenchmarkError for an id that holds white space.
    """
    start = gzip.open if path.suffix == ".gz" else open
    with replacing(path) as draft, start(draft, "wt", encoding="utf-8") as file:
        for query_id, docs in lists.items():
            for rank, doc_id in enumerate(docs, start=1):
                if len(f"{query_id} {doc_id}".split()) != 2:
                    raise BenchmarkError(
                        f"{path}: id {query_id!r} or {doc_id!r} holds white space, which a run file cannot represent"
                    )
                file.write(f"{query_id} Q0 {doc_id} {rank} {len(docs) - rank + 1} {tag}\n")


def as_trec_eval_ranks(scores: Mapping[str, float]) -> list[str]:
    """Documents by score, equal scores by document id, both descending: trec_eval's order (form_res_rels.c)."""
    return sorted(scores, key=lambda doc_id: (scores[doc_id], doc_id.encode()), reverse=True)


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
