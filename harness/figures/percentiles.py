"""Percentiles of latencies with an interval and a conservative bound, as far as the samples allow. Pure.

Latencies of one process are not independent. Every rule therefore counts *effective* samples, and its ranks are
stretched over the actual samples.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from harness.outcome import Outcome
from harness.records import Percentile, Sample

CONFIDENCE = 0.95  # confidence of the interval
BOUND_CONFIDENCE = 0.99  # confidence of the conservative bound: MLPerf's c, fixed in LoadGen (early_stopping.cc)
# A server that meets the objective has 1/0.05 times the allowed share of slow requests, 20% for a p99, in at most 5% of
# its runs, however its requests depend on each other (Markov's inequality). Overloaded servers need this rule: their
# queue grows without end, so that all of their times together are one or two effective samples.
CLEARLY = 0.05
QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


class Estimate(NamedTuple):
    """A percentile in the unit of its samples. A value is None if there are too few samples."""

    estimate: float | None  # nearest rank
    lo: float | None  # 95% interval by order statistics
    hi: float | None
    conservative: float | None  # upper bound of the true percentile, with 99% confidence
    n: int
    n_eff: int
    reason: str = ""  # reason for values that are None


class Floors(NamedTuple):
    """Fewest effective samples for each statement about a quantile."""

    estimate: int  # the largest sample bounds the quantile from above, with 95% confidence
    interval: int  # both ends of the interval exist
    conservative: int  # early stopping's bound exists
    precise: int  # the share below the quantile is known to 1/20 of the share above, with 99%


class Objective(NamedTuple):
    """Whether enough requests were answered within the objective's time."""

    slo_s: float
    quantile: float
    over: int  # requests that took longer, failed ones included
    n: int
    n_eff: int
    needed: int  # effective samples that would pass with the observed number of slow requests
    verdict: Outcome  # PASS, FAIL or INCONCLUSIVE


class _Ranks(NamedTuple):
    """Ranks among the sorted samples, from 1; 0 for a rank that does not exist."""

    lo: int
    hi: int
    from_top: int  # counted from the largest sample


def estimate(values: Sequence[float], quantile: float) -> Estimate:
    """The quantile of `values`, which are in the order of their measurement."""
    n, n_eff = len(values), effective(values)
    floors, ordered = floors_of(quantile), sorted(values)
    if n_eff < floors.estimate:
        reason = f"{n_eff} effective of {n} samples, {floors.estimate} needed"
        return Estimate(None, None, None, None, n, n_eff, reason)
    ranks = _ranks(n_eff, quantile)
    stretch = n / n_eff
    lo = ordered[max(math.floor(ranks.lo * stretch), 1) - 1] if ranks.lo else None
    hi = ordered[min(math.ceil(ranks.hi * stretch), n) - 1] if ranks.hi else None
    bound = ordered[n - max(math.floor(ranks.from_top * stretch), 1)] if ranks.from_top else None
    reason = "" if hi is not None and bound is not None else _reason(n_eff, floors)
    return Estimate(percentile(values, quantile).value, lo, hi, bound, n, n_eff, reason)


def estimates(values: Sequence[float]) -> dict[str, Estimate]:
    """p50, p90, p95 and p99."""
    return {name: estimate(values, quantile) for name, quantile in QUANTILES.items()}


def effective(values: Sequence[float]) -> int:
    """Number of independent samples with the same information: n (1 - r) / (1 + r).

    r is the autocorrelation of the ranks at lag 1: one outlier among the values would hide the correlation of all
    others, and percentiles depend only on ranks. A negative r counts as 0, so the result never exceeds n.
    """
    n = len(values)
    ranks = stats.rankdata(values) - (n + 1) / 2
    spread = float(np.sum(ranks**2))
    if n < 3 or spread == 0:
        return n
    r = max(float(np.sum(ranks[1:] * ranks[:-1])) / spread, 0.0)
    return max(math.floor(n * (1 - r) / (1 + r)), 1)


@lru_cache
def floors_of(quantile: float) -> Floors:
    """Floors of a quantile: 299, 368, 662 and 262,742 for p99."""
    margin = (1 - quantile) / 20  # MLPerf's rule before early stopping (inference_rules.adoc)
    z = float(stats.norm.ppf(0.5 + BOUND_CONFIDENCE / 2))
    return Floors(
        estimate=samples_needed(quantile),
        interval=math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(max(quantile, 1 - quantile))),
        conservative=under_needed(1, quantile) + 1,
        precise=round(z**2 * quantile * (1 - quantile) / margin**2),
    )


def under_needed(over: int, quantile: float) -> int:
    """h(t): fewest samples below a time with which t = `over` slower samples stay within their share, 99% confidence.

    The smallest h with P[Binomial(h + t, 1 - p) <= t] < 1 - c (LoadGen, early_stopping.cc), a quantile of the negative
    binomial distribution.
    """
    return int(stats.nbinom.ppf(BOUND_CONFIDENCE, over + 1, 1 - quantile)) + 1


def objective(values: Sequence[float], slo_s: float, quantile: float = 0.99) -> Objective:
    """LoadGen's rule for the server scenario: a run with t slow requests passes if it has at least h(t) + t requests.

    Both are counted in effective samples, with t rounded up and at least early stopping's floor of samples. The
    objective fails if more than the allowed share of all requests was slow and there are either enough effective
    samples or clearly too many slow requests (`CLEARLY`). In every other case it is inconclusive: more requests could
    decide. A failed request counts as infinitely slow.
    """
    n, n_eff = len(values), effective(values)
    over = sum(value > slo_s for value in values)
    slow = math.ceil(over * n_eff / n) if n else 0
    needed = max(under_needed(slow, quantile) + slow, floors_of(quantile).conservative)
    verdict = Outcome.INCONCLUSIVE
    if n_eff >= needed:
        verdict = Outcome.PASS
    elif (
        n
        and over / n > 1 - quantile
        and (n_eff >= floors_of(quantile).estimate or over / n >= (1 - quantile) / CLEARLY)
    ):
        verdict = Outcome.FAIL
    return Objective(slo_s, quantile, over, n, n_eff, needed, verdict)


@lru_cache(maxsize=4096)
def _ranks(n: int, quantile: float) -> _Ranks:
    """Ranks of the interval [x(l), x(u)] and of the conservative bound.

    The interval covers the quantile with a probability of at least 95%: at most alpha/2 lies on either side (David and
    Nagaraja 2003, Order Statistics, 7.1). The bound counts from the top: the largest t with n >= h(t) + t.
    """
    tail = (1 - CONFIDENCE) / 2
    lo = int(stats.binom.ppf(tail, n, quantile))
    hi = int(stats.binom.ppf(1 - tail, n, quantile)) + 1
    top = int(stats.binom.ppf(1 - BOUND_CONFIDENCE, n, 1 - quantile)) - 1
    return _Ranks(lo, hi if hi <= n else 0, max(top, 0))


def _reason(n_eff: int, floors: Floors) -> str:
    kinds: dict[str, int] = {"an interval": floors.interval, "the conservative bound": floors.conservative}
    missing = [f"{kind} needs {needed}" for kind, needed in kinds.items() if n_eff < needed]
    return f"{n_eff} effective samples; {' and '.join(missing)}"


def samples_needed(quantile: float) -> int:
    """Smallest n for which the maximum bounds the quantile from above with 95% confidence: quantile^n <= 5%.

    p50 5, p90 29, p95 59, p99 299. With fewer samples a printed percentile would be the maximum in disguise.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(quantile))


def measured(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that count: neither warm-up samples nor queries without candidates."""
    return [sample for sample in samples if not sample.warmup and sample.pairs]


def percentile(values: Sequence[float], quantile: float) -> Percentile:
    """Nearest-rank percentile of seconds; None below the floor, never the maximum."""
    needed = samples_needed(quantile)
    if len(values) < needed:
        return Percentile(None, len(values), needed)
    return Percentile(sorted(values)[math.ceil(quantile * len(values)) - 1], len(values), needed)


def throughput(samples: Sequence[Sample]) -> float | None:
    """Pairs per second of scoring time; None without samples."""
    seconds = sum(sample.service_s for sample in samples)
    return sum(sample.pairs for sample in samples) / seconds if seconds else None
