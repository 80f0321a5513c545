"""Measures of a reranked list: ir_measures on rank-derived scores, ties broken by the first stage's order."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import ir_measures
from ir_measures import AP, RR, Judged, Measure, R, nDCG

from harness.records import Qrels, Score

HEADLINE = "nDCG@10"
MEASURES: tuple[Measure, ...] = (nDCG @ 10, AP, RR @ 10, R @ 100, Judged @ 10)
TIE_AWARE = "nDCG@10 tie-aware"

PerQuery = dict[str, dict[str, float]]  # measure -> query_id -> value


class Evaluation(NamedTuple):
    per_query: PerQuery
    tie_rate: float  # share of scored documents that another document of the query ties with


def evaluate(qrels: Qrels, scores: Mapping[str, Sequence[Score]]) -> Evaluation:
    """Every measure for every query of the qrels. A query without scores has 0 in each, never a smaller denominator."""
    ranked = {query_id: rank(scored) for query_id, scored in scores.items()}
    per_query = measure(qrels, ranked, MEASURES)
    per_query[TIE_AWARE] = {
        query_id: tie_aware_ndcg(scores.get(query_id, ()), grades) for query_id, grades in qrels.items()
    }
    documents = sum(map(len, scores.values()))
    tied = sum(map(tied_documents, scores.values()))
    return Evaluation(per_query, tied / documents if documents else 0.0)


def rank(scored: Sequence[Score]) -> list[str]:
    """Documents by score, best first; equal scores keep the first stage's order."""
    return [score.doc_id for score in sorted(scored, key=lambda score: (-score.value, score.rank))]


def measure(qrels: Qrels, ranked: Mapping[str, Sequence[str]], measures: Sequence[Measure]) -> PerQuery:
    """ir_measures per query of the qrels, on scores n, n-1, ..., 1.

    Rank-derived scores because pytrec_eval compares in float32, in which log-odds or probabilities close to each
    other tie and are then ordered by document id (trec_eval issue 34).
    """
    per_query: PerQuery = {str(each): dict.fromkeys(qrels, 0.0) for each in measures}
    run = {
        query_id: {doc_id: float(len(docs) - i) for i, doc_id in enumerate(docs)}
        for query_id, docs in ranked.items()
        if docs and query_id in qrels
    }
    # a query with an empty dict of judgements would corrupt the queries after it (pytrec_eval issue 49)
    judged = {query_id: dict(grades) for query_id, grades in qrels.items() if grades}
    if run and judged:
        for result in ir_measures.iter_calc(list(measures), judged, run):
            per_query[str(result.measure)][result.query_id] = float(result.value)
    return per_query


def tied_documents(scored: Sequence[Score]) -> int:
    """How many documents share their score with another one."""
    groups: dict[float, int] = defaultdict(int)
    for score in scored:
        groups[score.value] += 1
    return sum(size for size in groups.values() if size > 1)


def tie_aware_ndcg(scored: Sequence[Score], grades: Mapping[str, int], k: int = 10) -> float:
    """Expected nDCG@k over all orders of tied documents, with linear gain as trec_eval.

    Each document of a tied group has the group's mean gain at each of its ranks (McSherry and Najork, ECIR 2008).
    """
    ideal = dcg(sorted((max(grade, 0) for grade in grades.values()), reverse=True)[:k])
    if ideal == 0:
        return 0.0
    gains: list[float] = []
    best_first = sorted(scored, key=lambda score: -score.value)
    for _, group in groupby(best_first, key=lambda score: score.value):
        tied = [max(grades.get(score.doc_id, 0), 0) for score in group]
        gains += [sum(tied) / len(tied)] * len(tied)
    return dcg(gains[:k]) / ideal


def dcg(gains: Sequence[float]) -> float:
    """Sum of gain / log2(rank + 1), Järvelin and Kekäläinen 2002 as trec_eval computes it."""
    return sum(gain / math.log2(position + 2) for position, gain in enumerate(gains))


def random_order(qrels: Qrels, lists: Mapping[str, Sequence[str]]) -> float:
    """Mean nDCG@10 to expect of the candidates in random order: the floor of any reranker over them."""
    tied = {query_id: [Score(doc_id, 1, 0.0) for doc_id in docs] for query_id, docs in lists.items()}
    return sum(tie_aware_ndcg(tied.get(query_id, ()), grades) for query_id, grades in qrels.items()) / len(qrels)


def recall(qrels: Qrels, lists: Mapping[str, Sequence[str]], k: int) -> float:
    """Mean R@k of the candidates: the share of a query's relevant documents that any reranker of them can find."""
    values = measure(qrels, lists, [R @ k])[str(R @ k)]
    return sum(values.values()) / len(values)


def oracle(qrels: Qrels, lists: Mapping[str, Sequence[str]]) -> float:
    """Mean nDCG@10 of the candidates in the best possible order: the ceiling of any reranker over them."""
    best = {
        query_id: sorted(lists.get(query_id, ()), key=lambda doc_id: -grades.get(doc_id, 0))
        for query_id, grades in qrels.items()
    }
    values = measure(qrels, best, [nDCG @ 10])[HEADLINE]
    return sum(values.values()) / len(values)
