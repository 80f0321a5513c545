"""Measures of rankings that are plain dictionaries."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar

from harness.benchmarks.base import BenchmarkError
from harness.candidates.trec import as_trec_eval_ranks
from harness.figures.measures import measure, summary
from harness.verbs.measure import check, parse, unjudged

T = TypeVar("T")

log = logging.getLogger("crispbench")


class QualityResult(NamedTuple):
    """Measures of one ranking, by name as ir_measures writes them ("nDCG@10")."""

    means: dict[str, float]  # measure -> mean over all judged queries, or the sum of a count
    per_query: dict[str, dict[str, float]]  # measure -> query_id -> value
    missing: tuple[str, ...]  # ids of judged queries that the run lacks; they count 0


def evaluate(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Mapping[str, float]],
    measures: Sequence[str] = ("nDCG@10", "AP", "RR@10", "R@100"),
) -> QualityResult:
    """Measures of a run by judgements, as `trec_eval -c` computes them.

    `qrels` is {query_id: {doc_id: grade}}, whole numbers (1.0 is 1), 0 for judged not relevant; `run` is {query_id:
    {doc_id: score}}, higher is better. Ids that are whole numbers are read as texts, as from a file: 7 is "7". A mean
    is over every query of `qrels`; one that `run` lacks counts 0 and is named in `missing`. Queries without judgements
    are left out. Equal scores are ordered by document id, descending, as trec_eval orders them. `measures` are names of
    ir_measures or trec_eval; the result has those of ir_measures. A run without any judged document is named in the log
    "crispbench". Raises BenchmarkError for an unknown measure, an id that is neither a text nor a whole number, a grade
    that is not a whole number or is too high for a measure, a score that is not a finite number, and a run that has
    none of the judged queries.
    """
    parsed = parse(measures)
    judged = {query_id: _read(query_id, grades, _grade) for query_id, grades in _by_text(qrels).items()}
    scored = {query_id: _read(query_id, scores, _score) for query_id, scores in _by_text(run).items()}
    check(parsed, judged)
    if not scored.keys() & judged.keys():
        raise BenchmarkError(
            f"none of the run's {len(run)} queries is among the {len(qrels)} judged ones: compare their ids"
        )
    foreign = unjudged(scored, judged)
    if foreign:
        log.warning("crispbench: the run: %s", foreign)
    ranked = {query_id: as_trec_eval_ranks(scored[query_id]) for query_id in judged if query_id in scored}
    per_query = measure(judged, ranked, parsed)
    means = {name: summary(name, values) for name, values in per_query.items()}
    return QualityResult(means, per_query, tuple(query_id for query_id in judged if query_id not in scored))


def _by_text(table: Mapping[Any, T]) -> dict[str, T]:
    """The entries by their ids as texts. Raises BenchmarkError if two ids have the same text."""
    entries: dict[str, T] = {}
    for key, value in table.items():
        if entries.setdefault(_identifier(key), value) is not value:
            raise BenchmarkError(f"id {key!r:.60} is there as a text and as a number; keep one of them")
    return entries


def _read(query_id: str, values: Mapping[Any, Any], read: Callable[[str, str, object], T]) -> dict[str, T]:
    return {doc_id: read(query_id, doc_id, value) for doc_id, value in _by_text(values).items()}


def _identifier(key: object) -> str:
    """An id as the text that files hold; pandas gives ids of digits as whole numbers."""
    if isinstance(key, str):
        return key
    if isinstance(key, Integral) and not isinstance(key, bool):
        return str(int(key))
    raise BenchmarkError(f"id {key!r:.60}: expected a string or a whole number")


def _grade(query_id: str, doc_id: str, grade: object) -> int:
    """A whole number; pandas gives a column of grades as floats where one is missing."""
    if isinstance(grade, Real) and not isinstance(grade, bool) and float(grade).is_integer():
        return int(float(grade))
    raise BenchmarkError(
        f"grade {grade!r:.60} of query {query_id!r:.60} and document {doc_id!r:.60}: expected a whole number"
    )


def _score(query_id: str, doc_id: str, score: object) -> float:
    if isinstance(score, Real) and math.isfinite(score):
        return float(score)
    raise BenchmarkError(
        f"score {score!r:.60} of query {query_id!r:.60} and document {doc_id!r:.60}: expected a finite number"
    )
