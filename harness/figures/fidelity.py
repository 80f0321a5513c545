"""Distance between the scores and orders of two engines over the same candidates, which nDCG@10 does not show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from harness.figures.measures import tied_documents
from harness.figures.statistics import Values, contrast
from harness.records import Qrels, Score

PERSISTENCE = 0.9  # p of rank-biased overlap: the first ten ranks have 86% of the weight (Webber et al. 2010)
TOP = 10
Scores = Mapping[str, Sequence[Score]]  # query_id -> scores in first-stage order
Ranks = np.ndarray[tuple[int], np.dtype[np.intp]]


class Sides(NamedTuple):
    """Scores and ranks of one query's documents on both sides, in the first stage's order."""

    query_id: str
    doc_ids: list[str]
    reference: Values
    candidate: Values
    ranks_reference: Ranks  # from 1
    ranks_candidate: Ranks


class Drift(NamedTuple):
    """The candidate's score minus the reference's, over all pairs, in units of the score."""

    mean_absolute: float
    p99: float  # 99th percentile of the absolute drift
    maximum: float  # largest absolute drift
    bias: float  # mean of the signed drift
    query_id: str  # query with the largest absolute drift
    doc_id: str  # document with the largest absolute drift


class Correlation(NamedTuple):
    """Correlation between the two orders, over the queries; None if it is undefined for every query."""

    mean: float | None  # over the queries
    lowest: float | None  # lowest value of a query
    undefined: int  # queries with fewer than two documents, or with equal scores only


class Scale(NamedTuple):
    """How well one engine's scores separate documents."""

    tie_rate: float  # share of pairs that tie with another pair of their query
    saturation: float  # share of pairs that tie at the highest or the lowest score of the benchmark


class Changes(NamedTuple):
    """Queries whose order changed, by the position of the change. The fields add up to all changed queries."""

    first_relevant: int  # the rank of the first relevant document changed
    above: int  # the first relevant document kept its rank, and documents above it moved
    below: int  # only documents below the first relevant one moved
    without: int  # the query has no relevant candidate


@dataclass(frozen=True)
class Fidelity:
    """Distance between the candidate's scores and orders and the reference's, independent of judgements."""

    queries: int  # queries with candidates
    pairs: int
    drift: Drift | None  # None if the scores are on different scales
    tau: Correlation  # Kendall's tau-b of the scores
    overlap: Correlation  # rank-biased overlap, p = 0.9
    top1: int  # queries whose first document differs
    top10: int  # queries whose top 10 contains different documents
    top10_order: int  # queries whose top 10 contains different documents or has a different order
    changes: Changes
    reference: Scale
    candidate: Scale
    per_query: Mapping[str, float]  # mean absolute drift, or 1 - RBO if the scales differ


class Noise(NamedTuple):
    """The candidate's distance from the reference, beside the distance of a repetition of the reference."""

    candidate: float  # mean over queries of the mean absolute drift, or of 1 - RBO
    repeated: float  # as above, for the repetition
    lo: float  # 95% interval of the paired difference, candidate - repeated
    hi: float

    @property
    def exceeded(self) -> bool:
        return self.lo > 0


class Move(NamedTuple):
    """A document whose rank changed, with its rank and score on both sides."""

    doc_id: str
    grade: int | None  # None if the document is not judged
    rank_reference: int
    rank_candidate: int
    score_reference: float
    score_candidate: float


def fidelity(qrels: Qrels, reference: Scores, candidate: Scores, *, same_scale: bool) -> Fidelity:
    """Fidelity over the queries with candidates. Raises ValueError if the sides scored different documents."""
    queries = [sides(query_id, reference[query_id], candidate[query_id]) for query_id in sorted(reference)]
    queries = [query for query in queries if query.doc_ids]
    overlaps = {query.query_id: overlap(query.ranks_reference, query.ranks_candidate) for query in queries}
    distances = {query_id: 1 - value for query_id, value in overlaps.items()}
    if same_scale:
        distances = {query.query_id: float(np.abs(query.candidate - query.reference).mean()) for query in queries}
    taus = [tau(query.reference, query.candidate) for query in queries]
    return Fidelity(
        queries=len(queries),
        pairs=sum(len(query.doc_ids) for query in queries),
        drift=_drift(queries) if same_scale and queries else None,
        tau=_correlation(taus),
        overlap=_correlation(list(overlaps.values())),
        top1=sum(_top(query, 1) for query in queries),
        top10=sum(_top(query, TOP) for query in queries),
        top10_order=sum(_reordered(query, TOP) for query in queries),
        changes=_changes(queries, qrels),
        reference=_scale(reference),
        candidate=_scale(candidate),
        per_query=distances,
    )


def sides(query_id: str, reference: Sequence[Score], candidate: Sequence[Score]) -> Sides:
    """Both sides of one query. Raises ValueError if they do not list the same documents in the same order."""
    doc_ids = [score.doc_id for score in reference]
    if doc_ids != [score.doc_id for score in candidate]:
        raise ValueError(f"query {query_id!r}: the two sides list different documents, or a different order")
    before, now = (np.array([score.value for score in scored]) for scored in (reference, candidate))
    return Sides(query_id, doc_ids, before, now, _ranks(before), _ranks(now))


def _ranks(values: Values) -> Ranks:
    """Ranks from 1 by score; equal scores keep the first stage's order, as `measures.rank` does."""
    ranks: Ranks = np.empty(len(values), dtype=np.intp)
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return ranks


def tau(reference: Values, candidate: Values) -> float | None:
    """Kendall's tau-b of the scores, which corrects for ties (Kendall 1945); None if one side has equal scores only."""
    if len(reference) < 2 or np.ptp(reference) == 0 or np.ptp(candidate) == 0:
        return None
    # The method affects only the p-value, which is not used. "exact" rejects ties; "asymptotic" divides by 0 for n = 2.
    method = "asymptotic" if len(reference) > 2 else "exact"
    return float(stats.kendalltau(reference, candidate, method=method).statistic)


def overlap(reference: Ranks, candidate: Ranks) -> float:
    """Extrapolated rank-biased overlap of two orders of the same n documents, 1 for equal orders.

    RBO = X_n/n p^n + (1-p)/p sum_d X_d/d p^d, where X_d documents are among the first d of both (Webber, Moffat and
    Zobel, ACM TOIS 28(4), 2010, equation 32 at full depth). Ties are broken as in the ranking.
    """
    count = len(reference)
    depths = np.arange(1, count + 1)
    shared = np.cumsum(np.bincount(np.maximum(reference, candidate), minlength=count + 1)[1:])
    agreement, weights = shared / depths, PERSISTENCE**depths
    return float(agreement[-1] * weights[-1] + (1 - PERSISTENCE) / PERSISTENCE * (agreement * weights).sum())


def noise(candidate: Fidelity, repeated: Fidelity) -> Noise:
    """Compare the candidate's distance from the reference with that of a repetition, paired over queries."""
    differences = {query_id: value - repeated.per_query[query_id] for query_id, value in candidate.per_query.items()}
    excess = contrast({"": differences}, {"": 1.0}, threshold=0.0, largest_loss=None)  # drifts have no limit
    distance, floor = (float(np.mean(list(side.per_query.values()))) for side in (candidate, repeated))
    return Noise(distance, floor, excess.lo, excess.hi)


def moves(query: Sides, grades: Mapping[str, int]) -> tuple[Move, ...]:
    """Documents in the top 10 of either order whose rank changed, in the reference's order."""
    moved = [
        Move(doc_id, grades.get(doc_id), int(rank_before), int(rank_now), float(before), float(now))
        for doc_id, rank_before, rank_now, before, now in zip(
            query.doc_ids, query.ranks_reference, query.ranks_candidate, query.reference, query.candidate, strict=True
        )
        if rank_before != rank_now and min(rank_before, rank_now) <= TOP
    ]
    return tuple(sorted(moved, key=lambda move: move.rank_reference))


def _drift(queries: Sequence[Sides]) -> Drift:
    differences = np.concatenate([query.candidate - query.reference for query in queries])
    absolute = np.abs(differences)
    index = int(absolute.argmax())
    worst = [(query.query_id, doc_id) for query in queries for doc_id in query.doc_ids][index]
    p99 = float(np.quantile(absolute, 0.99))
    return Drift(float(absolute.mean()), p99, float(absolute[index]), float(differences.mean()), *worst)


def _correlation(values: Sequence[float | None]) -> Correlation:
    defined = [value for value in values if value is not None]
    mean, lowest = (sum(defined) / len(defined), min(defined)) if defined else (None, None)
    return Correlation(mean, lowest, len(values) - len(defined))


def _top(query: Sides, k: int) -> bool:
    """Whether the two orders have different documents in the top k."""
    return bool(np.any((query.ranks_reference <= k) != (query.ranks_candidate <= k)))


def _reordered(query: Sides, k: int) -> bool:
    return bool(
        np.any(query.ranks_reference[query.ranks_reference <= k] != query.ranks_candidate[query.ranks_reference <= k])
    )


def _changes(queries: Sequence[Sides], qrels: Qrels) -> Changes:
    counts = {"first_relevant": 0, "above": 0, "below": 0, "without": 0}
    for query in queries:
        if not np.array_equal(query.ranks_reference, query.ranks_candidate):
            counts[_change(query, qrels.get(query.query_id, {}))] += 1
    return Changes(**counts)


def _change(query: Sides, grades: Mapping[str, int]) -> str:
    relevant = np.array([grades.get(doc_id, 0) > 0 for doc_id in query.doc_ids])
    if not relevant.any():
        return "without"
    first = query.ranks_reference[relevant].min()
    if first != query.ranks_candidate[relevant].min():
        return "first_relevant"
    changed = query.ranks_reference[query.ranks_reference != query.ranks_candidate]
    return "below" if changed.min() > first else "above"


def _scale(scores: Scores) -> Scale:
    values = np.array([score.value for scored in scores.values() for score in scored])
    if not len(values):
        return Scale(0.0, 0.0)
    tied = sum(map(tied_documents, scores.values()))
    ends = [np.count_nonzero(values == end) for end in {values.min(), values.max()}]
    return Scale(tied / len(values), sum(int(count) for count in ends if count > 1) / len(values))
