"""Measures of ranked lists, and what their scores leave open: ties, the best and the random order."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import groupby, islice
from operator import attrgetter
from typing import NamedTuple, TypeVar

import numpy as np
from ir_measures import AP, RR, Judged, Measure, R, nDCG

from harness.figures.measure_names import is_count
from harness.figures.providers import calculate, check_grades, count_without_documents
from harness.records import Qrels, Score

HEADLINE = "nDCG@10"
MEASURES: tuple[Measure, ...] = (nDCG @ 10, AP, RR @ 10, R @ 100, Judged @ 10)
TIE_AWARE = "nDCG@10 tie-aware"
AT_ONCE = 20  # queries in memory at a time; with 500, the garbage collector takes 1.5 times as long

PerQuery = dict[str, dict[str, float]]  # measure -> query_id -> value
Item = TypeVar("Item")


class Ties(StrEnum):
    """The order of documents with equal scores."""

    FIRST_STAGE = "first_stage"  # as the first stage ranks them: our own rule
    TREC_EVAL = "trec_eval"  # scores in float32, by document id, descending: pytrec_eval and trec_eval up to 9
    ASCENDING_IDS = "ascending_ids"  # scores in float32, by document id, ascending: Lucene as Anserini runs it


class Evaluation(NamedTuple):
    """The measures of one engine on one benchmark, and what is odd about its scores."""

    per_query: PerQuery
    tie_rate: float  # share of scored documents with the score of another document of the query
    pairs: int
    constant: bool  # each list of two or more documents has only one score


def evaluate(qrels: Qrels, scores: Mapping[str, Sequence[Score]], measures: Sequence[Measure] = MEASURES) -> Evaluation:
    """The given measures and tie-aware nDCG@10 for every query of the qrels.

    A query without scores counts 0 in every measure and stays in the denominator. Raises ValueError for a grade with
    which a measure would be wrong.
    """
    check_grades(measures, qrels)
    per_query: PerQuery = {**measure(qrels, {}, measures), TIE_AWARE: dict.fromkeys(qrels, 0.0)}
    pairs = tied = several = constant = 0
    for batch in _batches(scores.items()):
        best_first = {query_id: in_order(scored) for query_id, scored in batch}
        judged = {query_id: qrels[query_id] for query_id in best_first if query_id in qrels}
        measured = measure(judged, {query_id: _doc_ids(ranked) for query_id, ranked in best_first.items()}, measures)
        tie_aware = {query_id: tie_aware_ndcg(best_first[query_id], judged[query_id], 10) for query_id in judged}
        for name, values in (measured | {TIE_AWARE: tie_aware}).items():
            per_query[name].update(values)
        for ranked in best_first.values():
            pairs += len(ranked)
            tied += tied_documents(ranked)
            several += len(ranked) > 1
            constant += len(ranked) > 1 and ranked[0].value == ranked[-1].value
    return Evaluation(per_query, tied / pairs if pairs else 0.0, pairs, 0 < several == constant)


def in_order(scored: Iterable[Score]) -> list[Score]:
    """Scores, best first; equal scores keep the first stage's order."""
    return sorted(sorted(scored, key=attrgetter("rank")), key=attrgetter("value"), reverse=True)


def rank(scored: Iterable[Score], ties: Ties = Ties.FIRST_STAGE) -> list[str]:
    """Documents by score, best first; equal scores in the order of the rule."""
    if ties is Ties.FIRST_STAGE:
        return _doc_ids(in_order(scored))
    ordered = sorted(scored, key=lambda score: score.doc_id.encode(), reverse=ties is Ties.TREC_EVAL)
    with np.errstate(over="ignore"):  # a score beyond float32 is infinite there as well
        values = np.asarray([score.value for score in ordered], dtype=np.float64).astype(np.float32)
    return [ordered[position].doc_id for position in np.argsort(-values, kind="stable")]


def measure(qrels: Qrels, ranked: Mapping[str, Sequence[str]], measures: Sequence[Measure]) -> PerQuery:
    """Measures of ir_measures per query of the qrels, on scores n, n-1, ..., 1.

    The scores are derived from ranks because pytrec_eval compares in float32, in which log-odds or probabilities close
    to each other tie and are then ordered by document id (trec_eval issue 34). A query without documents counts 0;
    what a count finds in its judgements still counts.
    """
    per_query: PerQuery = {
        str(parsed): {query_id: count_without_documents(parsed, grades) for query_id, grades in qrels.items()}
        for parsed in measures
    }
    for batch in _batches((query_id, docs) for query_id, docs in ranked.items() if query_id in qrels):
        for result in calculate(measures, qrels, dict(batch)):
            per_query[result.measure][result.query_id] = result.value
    return per_query


def recount(qrels: Qrels, scores: Mapping[str, Sequence[Score]], measures: Sequence[Measure], ties: Ties) -> PerQuery:
    """The measures of scores with equal ones in the order of a rule. A query without scores counts 0."""
    per_query = measure(qrels, {}, measures)
    for batch in _batches(scores.items()):
        ranked = {query_id: rank(scored, ties) for query_id, scored in batch if query_id in qrels}
        judged = {query_id: qrels[query_id] for query_id in ranked}
        for name, values in measure(judged, ranked, measures).items():
            per_query[name].update(values)
    return per_query


def summary(name: str, values: Mapping[str, float]) -> float:
    """The value of a measure over all queries: their mean, or the sum of a count."""
    total = math.fsum(values.values())
    return total if is_count(name) else total / len(values)


def tied_documents(scored: Sequence[Score]) -> int:
    """The number of documents that share their score with another one."""
    values = [score.value for score in scored]
    if len(set(values)) == len(values):
        return 0
    return sum(size for size in Counter(values).values() if size > 1)


def tie_aware_ndcg(best_first: Sequence[Score], grades: Mapping[str, int], k: int) -> float:
    """Expected nDCG@k over all orders of tied documents, with linear gain as in trec_eval.

    At each rank of a tied group, the gain is the mean gain of the group (McSherry and Najork, ECIR 2008). The scores
    are in the order of `in_order`.
    """
    ideal = _ideal(grades, k)
    if ideal == 0:
        return 0.0
    gains: list[float] = []
    for _, group in groupby(best_first, key=attrgetter("value")):
        gains += _mean_gain([score.doc_id for score in group], grades)
        if len(gains) >= k:
            break
    return dcg(gains[:k]) / ideal


def _ideal(grades: Mapping[str, int], k: int) -> float:
    return dcg(sorted((max(grade, 0) for grade in grades.values()), reverse=True)[:k])


def _mean_gain(tied: Sequence[str], grades: Mapping[str, int]) -> list[float]:
    """The expected gain at each rank of documents in random order."""
    gains = [max(grades[doc_id], 0) for doc_id in tied if doc_id in grades]
    return [sum(gains) / len(tied)] * len(tied)


def dcg(gains: Sequence[float]) -> float:
    """Sum of gain / log2(rank + 1), Järvelin and Kekäläinen 2002 as trec_eval computes it."""
    return sum(gain / math.log2(position + 2) for position, gain in enumerate(gains))


def random_order(qrels: Qrels, lists: Mapping[str, Sequence[str]]) -> float:
    """Expected mean nDCG@10 of the candidates in random order: the floor for any reranker."""
    total = 0.0
    for query_id, grades in qrels.items():
        docs, ideal = lists.get(query_id, ()), _ideal(grades, 10)
        if docs and ideal:
            total += dcg(_mean_gain(docs, grades)[:10]) / ideal
    return total / len(qrels)


def recall(qrels: Qrels, lists: Mapping[str, Sequence[str]], k: int) -> float:
    """Mean R@k of the candidates: the share of a query's relevant documents within reach of a reranker."""
    values = measure(qrels, dict(_relevant(qrels, lists, k)), [R @ k])[str(R @ k)]
    return sum(values.values()) / len(values)


def oracle(qrels: Qrels, lists: Mapping[str, Sequence[str]]) -> float:
    """Mean nDCG@10 of the candidates in the best possible order: the ceiling for any reranker."""
    best = {
        query_id: sorted(docs, key=lambda doc_id: -qrels[query_id][doc_id])
        for query_id, docs in _relevant(qrels, lists)
    }
    values = measure(qrels, best, [nDCG @ 10])[HEADLINE]
    return sum(values.values()) / len(values)


def _relevant(
    qrels: Qrels, lists: Mapping[str, Sequence[str]], k: int | None = None
) -> Iterator[tuple[str, list[str]]]:
    """The relevant ones among each query's first k documents (None: all), in their order. The others gain nothing."""
    for query_id, grades in qrels.items():
        yield query_id, [doc_id for doc_id in lists.get(query_id, ())[:k] if grades.get(doc_id, 0) > 0]


def _doc_ids(scored: Iterable[Score]) -> list[str]:
    return [score.doc_id for score in scored]


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while batch := list(islice(remaining, AT_ONCE)):
        yield batch
