"""Measures of rankings that are plain dictionaries."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.benchmarks.base import BenchmarkError
from harness.candidates.trec import as_trec_eval_ranks
from harness.figures.measures import measure, summary
from harness.verbs.measure import check, parse


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

    `qrels` is {query_id: {doc_id: grade}}, whole numbers, 0 for judged not relevant; `run` is {query_id: {doc_id:
    score}}, higher is better. A mean is over every query of `qrels`; one that `run` lacks counts 0 and is named in
    `missing`. Queries without judgements are left out. Equal scores are ordered by document id, descending, as
    trec_eval orders them. `measures` are names of ir_measures or trec_eval; the result has those of ir_measures. Raises
    BenchmarkError for an unknown measure, a grade that is not a whole number or is too high for a measure, a score that
    is not a finite number, and a run that has none of the judged queries.
    """
    parsed = [parse(name) for name in measures]
    check(parsed, qrels)
    if not run.keys() & qrels.keys():
        raise BenchmarkError(
            f"none of the run's {len(run)} queries is among the {len(qrels)} judged ones: compare their ids"
        )
    for query_id, scores in run.items():
        for doc_id, score in scores.items():
            if not math.isfinite(score):
                raise BenchmarkError(
                    f"score {score!r} of query {query_id!r} and document {doc_id!r}: expected a finite number"
                )
    ranked = {query_id: as_trec_eval_ranks(run[query_id]) for query_id in qrels if query_id in run}
    per_query = measure(qrels, ranked, parsed)
    means = {name: summary(name, values) for name, values in per_query.items()}
    return QualityResult(means, per_query, tuple(query_id for query_id in qrels if query_id not in run))
