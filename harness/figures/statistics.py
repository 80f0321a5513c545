"""Bootstrap intervals over queries and sign-flip tests. Results do not depend on the order of the queries."""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import stats

from harness.records import Difference, Measurement

RESAMPLES = 9999
CONFIDENCE = 0.95
POWER = 0.8
BATCH_VALUES = 10_000_000  # resampled values in memory at once, 80 MB; for several benchmarks it affects the draws
CACHED_VALUES = 50_000  # for one benchmark, whose draws do not depend on it; fits into a processor's cache

Name = TypeVar("Name", bound=Hashable)
Values = np.ndarray[tuple[int], np.dtype[np.float64]]


class Contrast(NamedTuple):
    """A weighted mean of paired differences; None if a benchmark has only one query."""

    value: float
    lo: float | None  # 95% interval
    hi: float | None
    standard_error: float | None
    p_below: float | None  # one-sided p-value of the hypothesis that the true value is at least the threshold


class PValue(NamedTuple):
    value: float
    exact: bool  # True if all sign flips were tried, False if a sample of them was


def mean(values: Mapping[str, float]) -> Measurement:
    """Mean over queries with its 95% bootstrap interval (percentile method, fixed seed)."""
    return means({"": values})[""]


def means(values: Mapping[Name, Mapping[str, float]]) -> dict[Name, Measurement]:
    """`mean` of several measures of the same queries. They share the draws, which take most of the time."""
    arrays = {name: _by_query_id(per_query) for name, per_query in values.items()}
    intervals = _intervals(list(arrays.values()))
    return {
        name: Measurement(float(array.mean()), *interval)
        for (name, array), interval in zip(arrays.items(), intervals, strict=True)
    }


def paired_difference(a: Mapping[str, float], b: Mapping[str, float]) -> Difference:
    """Mean of a - b over the queries, with the interval of the paired differences.

    Raises ValueError if a and b have different queries: a difference over some of them would be another number.
    """
    if a.keys() != b.keys():
        raise ValueError(f"paired values have {len(a)} and {len(b)} queries, {len(a.keys() ^ b.keys())} not in both")
    differences = _by_query_id({query_id: value - b[query_id] for query_id, value in a.items()})
    value = float(differences.mean())
    ((lo, hi),) = _intervals([differences])
    return Difference(value, value if lo is None else lo, value if hi is None else hi, len(differences))


def contrast(
    differences: Mapping[str, Mapping[str, float]], weights: Mapping[str, float], *, threshold: float
) -> Contrast:
    """Average of the benchmarks' mean differences by `weights`, which add up to 1.

    Benchmarks are resampled separately (stratified bootstrap). The percentile interval is widened to the quantiles of t
    and to the unbiased variance (Hesterberg 2015, The American Statistician 69(4), "expanded percentile"): the
    plain interval is too narrow for few queries. Reversing all signs mirrors the result exactly, bit by bit.
    """
    names = sorted(differences)
    arrays, shares = [_by_query_id(differences[name]) for name in names], [weights[name] for name in names]
    value = _weighted(arrays, shares)
    if min(map(len, arrays)) < 2:
        return Contrast(value, None, None, None, None)
    spread = _spread(arrays, shares)
    if spread is None:
        return Contrast(value, value, value, 0.0, float(value >= threshold))
    sign = _orientation(value, arrays)
    resampled = stats.bootstrap(
        [sign * array for array in arrays],
        lambda *samples, axis: sum(share * np.mean(x, axis=axis) for x, share in zip(samples, shares, strict=True)),
        n_resamples=RESAMPLES,
        confidence_level=1 - 2 * stats.norm.cdf(-spread.widening * stats.t.ppf(0.5 + CONFIDENCE / 2, spread.freedom)),
        method="percentile",
        batch=_batch(arrays),
        rng=np.random.default_rng(0),
    )
    lo, hi = sorted(sign * float(end) for end in resampled.confidence_interval)
    above = (1 + np.count_nonzero(sign * resampled.bootstrap_distribution >= threshold)) / (1 + RESAMPLES)
    p_below = stats.t.cdf(stats.norm.ppf(min(above, 1 - 1 / RESAMPLES)) / spread.widening, spread.freedom)
    return Contrast(value, lo, hi, spread.standard_error, float(p_below))


def sign_flip(differences: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> PValue:
    """Two-sided p-value of the weighted mean, under the hypothesis that each query's difference may have either sign.

    All flips are tried for up to 13 nonzero differences (2^13 < 9999); for more, 9999 are drawn with a fixed seed.
    """
    arrays = {name: _by_query_id(differences[name]) for name in sorted(differences)}
    terms = np.concatenate([weights[name] * array / len(array) for name, array in arrays.items()])
    terms = terms[terms != 0]
    if len(terms) < 2:
        return PValue(1.0, True)
    if 2 ** len(terms) <= RESAMPLES:
        test = stats.permutation_test((terms,), np.sum, permutation_type="samples", n_resamples=RESAMPLES)
        return PValue(float(test.pvalue), True)
    rng = np.random.default_rng(0)

    def flipped(size: tuple[int, int]) -> Any:
        """Flips by the lowest of 32 bits: the same flips that `permutation_test` draws, in a seventh of the time."""
        keep = (rng.integers(0, 2**32, size, dtype=np.uint32) & 1).astype(bool)
        return np.where(keep, terms, -terms)

    test = stats.monte_carlo_test(
        terms,
        flipped,
        np.sum,
        n_resamples=RESAMPLES,
        batch=max(1, CACHED_VALUES // len(terms)),
    )
    return PValue(float(test.pvalue), False)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Adjusted p-values: rejecting those below 0.05 keeps the probability of any false alarm below 0.05 (Holm 1979)."""
    adjusted: dict[Name, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def standardised(differences: Mapping[str, float]) -> float | None:
    """Cohen's d_z, the mean of paired differences over their standard deviation (Lakens 2013); None if that is zero."""
    array = _by_query_id(differences)
    if len(array) < 2 or np.ptp(array) == 0:
        return None
    return float(array.mean() / array.std(ddof=1))


def growth(standard_error: float, distance: float) -> float:
    """Factor on the number of queries with which an interval ends before a bound at `distance` from the true value.

    The probability of that is 80%: n = (z_0.975 + z_0.8)^2 sd^2 / distance^2 (Julious 2004, Statistics in Medicine
    23:1921).
    """
    return float(((stats.norm.ppf(0.5 + CONFIDENCE / 2) + stats.norm.ppf(POWER)) * standard_error / distance) ** 2)


def letters(names: Sequence[str], distinct: Collection[frozenset[str]]) -> dict[str, str]:
    """Compact letter display: two names share a letter unless their pair is distinct (Piepho 2004, insert-absorb).

    The first name gets the letter a; aa, ab, ... follow z.
    """
    groups = [frozenset(names)]
    for pair in distinct:
        split = [group - {name} for group in groups if pair <= group for name in pair]
        groups = [group for group in groups if not pair <= group]
        groups += [new for new in set(split) if not any(new <= group for group in groups)]
        groups = [group for group in groups if not any(group < larger for larger in groups)]
    groups.sort(key=lambda group: [name not in group for name in names])
    signs = {group: _letter(index) for index, group in enumerate(groups)}
    return {name: "".join(sign for group, sign in signs.items() if name in group) for name in names}


def _letter(index: int) -> str:
    more, last = divmod(index, 26)
    return (_letter(more - 1) if more else "") + chr(ord("a") + last)


class _Spread(NamedTuple):
    standard_error: float
    widening: float  # unbiased standard error over the bootstrap's, whose variance divides by n
    freedom: float  # degrees of freedom, after Welch and Satterthwaite


def _spread(arrays: Sequence[Values], shares: Sequence[float]) -> _Spread | None:
    """The spread of the weighted mean; None if the differences within every benchmark are equal."""
    sizes = np.array([len(array) for array in arrays])
    variances = np.array([(share * a.std(ddof=1)) ** 2 / len(a) for a, share in zip(arrays, shares, strict=True)])
    if all(np.ptp(array) == 0 for array in arrays) or not variances.any():
        return None
    parts = variances / variances.max()  # scaled so that their squares neither vanish nor overflow
    widening = math.sqrt(parts.sum() / (parts * (sizes - 1) / sizes).sum())
    freedom = parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum()
    return _Spread(math.sqrt(variances.sum()), widening, float(freedom))


def _weighted(arrays: Sequence[Values], shares: Sequence[float]) -> float:
    return sum(share * float(array.mean()) for array, share in zip(arrays, shares, strict=True))


def _orientation(value: float, arrays: Sequence[Values]) -> float:
    """1 or -1, so that both directions of a comparison resample the same numbers."""
    differences = np.concatenate(arrays)
    return math.copysign(1.0, value or differences[np.flatnonzero(differences)[0]])


def _by_query_id(values: Mapping[str, float]) -> Values:
    return np.array([value for _, value in sorted(values.items())], dtype=np.float64)


def _intervals(arrays: Sequence[Values]) -> list[tuple[float | None, float | None]]:
    """Interval of the mean of each array, with the same draws for all; the arrays have equal lengths."""
    if len(arrays[0]) < 2:
        return [(None, None)] * len(arrays)  # a single query has no spread
    spread = [array for array in arrays if np.ptp(array)]  # scipy warns about a distribution without a spread
    if not spread:
        return [(float(array[0]), float(array[0])) for array in arrays]
    interval = stats.bootstrap(
        (np.arange(len(spread[0])),),
        lambda drawn, axis: np.stack([array[drawn].mean(axis=axis) for array in spread]),
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=_batch(spread[:1]),
        rng=np.random.default_rng(0),
    ).confidence_interval
    ends = iter(zip(interval.low.tolist(), interval.high.tolist(), strict=True))
    return [next(ends) if np.ptp(array) else (float(array[0]), float(array[0])) for array in arrays]


def _batch(arrays: Sequence[Values]) -> int:
    """Number of resamples to draw at once."""
    values = CACHED_VALUES if len(arrays) == 1 else BATCH_VALUES
    return max(1, values // sum(map(len, arrays)))
