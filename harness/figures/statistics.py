"""Intervals, sign-flip tests and the number of queries that a verdict needs; the order of queries does not matter."""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import optimize, special, stats

from harness.records import Difference, Measurement

RESAMPLES = 9999
CONFIDENCE = 0.95
ALPHA = (1 - CONFIDENCE) / 2  # one end of an interval
POWER = 0.8
LARGEST_LOSS = 1.0  # of one query: nDCG lies between 0 and 1
BATCH_VALUES = 2_000_000  # weights in memory at once, 16 MB
DRAWN_VALUES = 40_000_000  # weights in all, about a fifth of a second; more values get fewer draws
NEGLIGIBLE = 1e-3  # spread as a share of the unseen loss that adds nothing to it
CACHED_VALUES = 50_000  # resampled values in memory at once; fits into a processor's cache

Name = TypeVar("Name", bound=Hashable)
Values = np.ndarray[tuple[int], np.dtype[np.float64]]


class Contrast(NamedTuple):
    """A weighted mean of paired differences. Each end is a bound on its own, with a confidence of 97.5%."""

    value: float
    lo: float  # holds whatever the differences are: queries that were not drawn may lose everything
    hi: float  # assumes that queries that were not drawn gain no more than the largest gain or the typical change seen
    standard_error: float | None  # None if a benchmark has only one query
    p_below: float  # one-sided p-value of the hypothesis that the true value is at least the threshold; goes with `hi`


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
    differences: Mapping[str, Mapping[str, float]],
    weights: Mapping[str, float],
    *,
    threshold: float,
    largest_loss: float | None = LARGEST_LOSS,
) -> Contrast:
    """Average of the benchmarks' mean differences by `weights`, which add up to 1.

    The ends are Gaffke's bounds (Gaffke 2005; Learned-Miller and Thomas 2020, "A new confidence interval for the mean
    of a bounded random variable"): quantiles of the Bayesian bootstrap with one more query, which was not drawn and
    has the worst possible difference. For differences of 0 and -1 the lower end is that of Clopper and Pearson (1934).
    An average draws every benchmark on its own, and the additional query weighs as one among `effective_queries`.
    `largest_loss` is that of a query; None for differences without a limit, whose lower end is made as the upper one.
    """
    names = sorted(differences)
    arrays, shares = [_by_query_id(differences[name]) for name in names], [weights[name] for name in names]
    pooled = np.concatenate(arrays)
    rng = np.random.default_rng(0)
    means = _bayesian_means(arrays, shares, rng)
    unseen = _unseen_shares(
        effective_queries({name: len(differences[name]) for name in names}, weights), len(means), rng
    )
    loss = _assumed_gain(-pooled) if largest_loss is None else largest_loss
    low, high = (np.sort((1 - unseen) * means + unseen * worst) for worst in (-loss, _assumed_gain(pooled)))
    rank = round(ALPHA * (len(means) + 1))
    p_below = (1 + np.count_nonzero(high >= threshold)) / (1 + len(means))
    value, error = _weighted(arrays, shares), _standard_error(arrays, shares)
    return Contrast(value, float(low[rank - 1]), float(high[-rank]), error, float(p_below))


def effective_queries(sizes: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """Number of queries as which an average of benchmarks counts against losses that were not seen.

    It is the smallest ratio of a benchmark's queries to its share. If no query of any benchmark loses everything, the
    probability of that is at most (1 - loss)^n for an average loss and this n, wherever the losses are (Jensen).
    """
    return min(sizes[name] / share for name, share in weights.items())


def unseen_loss(effective: float) -> float:
    """Largest average loss, at 97.5% confidence, if not one of the queries lost anything (Clopper and Pearson 1934)."""
    return float(-np.expm1(math.log(ALPHA) / effective))


def least_queries(margin: float) -> int:
    """Fewest queries of which none may lose anything for `unseen_loss` to be below the margin; 736 for 0.005."""
    return math.floor(math.log(ALPHA) / math.log1p(-margin)) + 1


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


def growth_to_find(standard_error: float, distance: float, power: float = POWER) -> float:
    """Factor on the number of queries with which the upper end lies below a bound at `distance` from the true value.

    n = (z_0.975 + z_power)^2 sd^2 / distance^2 (Julious 2004, Statistics in Medicine 23:1921).
    """
    return float(((stats.norm.ppf(1 - ALPHA) + stats.norm.ppf(power)) * standard_error / distance) ** 2)


def growth_to_pass(standard_error: float, effective: float, distance: float, power: float = POWER) -> float:
    """Factor on the number of queries with which the lower end lies above a bound at `distance` from the true value."""

    def excess(exponent: float) -> float:
        factor = math.exp(exponent)
        return decided_distance(standard_error / math.sqrt(factor), effective * factor, power) - distance

    return math.exp(optimize.brentq(excess, -50, 50, xtol=1e-12))


def decided_distance(standard_error: float, effective: float, power: float = POWER) -> float:
    """Smallest distance between the true value and a bound below it that the lower end shows with this power.

    The lower end is the measured value, minus the 97.5% quantile of its error and of the unseen loss together: a normal
    and an exponential variable.
    """
    rate = -math.log(ALPHA) / unseen_loss(effective)
    if standard_error * rate < NEGLIGIBLE:
        return unseen_loss(effective)

    def excess(distance: float) -> float:
        """P(error > distance) - alpha, for the sum of both variables; the two forms neither overflow nor cancel."""
        z = distance / standard_error
        y = rate * standard_error - z
        if y > 0:
            unseen = special.erfcx(y / math.sqrt(2)) / 2 * math.exp(-z * z / 2)
        else:
            unseen = math.exp((rate * standard_error) ** 2 / 2 - rate * distance) * special.ndtr(-y)
        return float(special.ndtr(-z) + unseen - ALPHA)

    quantile = optimize.brentq(excess, 0, 10 * standard_error + 10 / rate, xtol=1e-15)
    return float(quantile + stats.norm.ppf(power) * standard_error)


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


def _bayesian_means(arrays: Sequence[Values], shares: Sequence[float], rng: np.random.Generator) -> Values:
    """Weighted means under Dirichlet weights (Rubin 1981). Equal values are drawn together."""
    distinct = [np.unique(array, return_counts=True) for array in arrays]
    # The number of draws + 1 is a multiple of 1 / ALPHA, so the level is exact for every number of draws.
    unit = round(1 / ALPHA)
    wanted = DRAWN_VALUES // (unit * sum(len(values) for values, _ in distinct))
    draws = unit * min(max(wanted, 25), (RESAMPLES + 1) // unit) - 1
    means = np.zeros(draws)
    for (values, counts), share in zip(distinct, shares, strict=True):
        rows = max(1, BATCH_VALUES // len(values))
        for start in range(0, draws, rows):
            drawn = rng.standard_gamma(counts, (min(rows, draws - start), len(counts)))
            means[start : start + rows] += share * (drawn @ values) / drawn.sum(axis=1)
    return means


def _unseen_shares(effective: float, draws: int, rng: np.random.Generator) -> Values:
    """The weight of one additional query: quantiles of Beta(1, n) at equal steps, in random order."""
    levels = (1 + rng.permutation(draws)) / (draws + 1)
    shares: Values = -np.expm1(np.log1p(-levels) / effective)
    return shares


def _assumed_gain(differences: Values) -> float:
    """The gain of a query that was not drawn: the largest gain seen, or the typical change if no gain is as large.

    Without the typical change (the root mean square of the differences that are not zero), three losses among three
    changes would count as a regression, although a candidate without a loss has three of them in one case of eight.
    """
    changes = differences[differences != 0]
    return max(float(changes.max()), float(np.sqrt((changes**2).mean()))) if len(changes) else 0.0


def _standard_error(arrays: Sequence[Values], shares: Sequence[float]) -> float | None:
    if min(map(len, arrays)) < 2:
        return None
    errors = [
        share * float(array.std(ddof=1)) / math.sqrt(len(array)) for array, share in zip(arrays, shares, strict=True)
    ]
    return math.hypot(*errors)


def _weighted(arrays: Sequence[Values], shares: Sequence[float]) -> float:
    return sum(share * float(array.mean()) for array, share in zip(arrays, shares, strict=True))


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
        batch=_batch(spread[0]),
        rng=np.random.default_rng(0),
    ).confidence_interval
    ends = iter(zip(interval.low.tolist(), interval.high.tolist(), strict=True))
    return [next(ends) if np.ptp(array) else (float(array[0]), float(array[0])) for array in arrays]


def _batch(array: Values) -> int:
    """Number of resamples to draw at once."""
    return max(1, CACHED_VALUES // len(array))
