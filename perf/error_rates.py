"""How often the intervals of several methods lead `crispbench compare` to a wrong verdict, by simulation.

The differences are drawn here and every method is written here: nothing of the product decides. Three tables: the
methods beside each other, the chosen one in detail, and whole comparisons of several benchmarks with Holm's adjustment.

python -m perf.error_rates                              # 1,000 trials of a cell, about half an hour on one idle core
python -m perf.error_rates --trials 3000 --methods Gaffke --only single
python -m perf.error_rates --recorded results/quantization/demo-fp32 results/quantization/demo-int8
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from harness.run.rows import engine_rows

MARGIN = 0.005
ALPHA = 0.025  # of each end
RESAMPLES = 399  # the ends are the 10th value from either side, so their level is exact in spite of the few draws
LOSSES = (-MARGIN, 0.0, -0.01, -0.02)  # true differences; the first is the worst case for `pass`
POWER_PART = 4  # powers are large, so a quarter of the trials is enough for them
SIZES = (50, 100, 300, 1000)
LAYOUTS = {
    "1 of 300": (300,),
    "2 of 100": (100, 100),
    "8 of 100": (100,) * 8,
    "13 of 100": (100,) * 13,
    "50, 300 and 2,000": (50, 300, 2000),
}
LOGNORMAL = (-5.0, 2.0)  # many losses of a thousandth, few of everything

Values = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Draw = Callable[[np.random.Generator, tuple[int, int], float], Values]  # (trials, queries), true mean -> differences


class Ends(NamedTuple):
    """The lower and the upper end of the intervals of all trials."""

    lo: Values
    hi: Values


SampleMethod = Callable[[Values, np.random.Generator], tuple[float, float]]  # differences (queries,) -> lo, hi
Method = Callable[[Values, np.random.Generator], Ends]  # differences (trials, queries)


class ErrorRates(NamedTuple):
    """What a method does with one distribution and number of queries; the rates are shares of the trials."""

    method: str
    distribution: str
    queries: int
    false_pass: float  # at a true loss of the margin
    false_regression: float
    width: float  # mean width of the interval at that loss
    passes: float  # without a true loss; NaN where the distribution has losses only
    finds_10: float  # regressions at a true loss of 0.010
    finds_20: float

    @property
    def coverage(self) -> float:
        return 1 - self.false_pass - self.false_regression


# Distributions of differences


def normal(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Values:
    return np.clip(rng.normal(mean, 0.04, shape), -1, 1)


def sparse(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Values:
    """Nine of ten queries do not change."""
    return np.where(rng.random(shape) < 0.1, np.clip(rng.normal(mean / 0.1, 0.12, shape), -1, 1), 0.0)


def skewed(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Values:
    """A little gained on most queries, much lost on few."""
    losses = np.minimum(rng.lognormal(*LOGNORMAL, shape), 1.0)
    return np.clip(mean + _capped_mean() - losses, -1, 1)


def _capped_mean() -> float:
    """The mean of min(x, 1) of the lognormal distribution."""
    mu, sigma = LOGNORMAL
    below = np.exp(mu + sigma**2 / 2) * stats.norm.cdf((-mu - sigma**2) / sigma)
    return float(below + stats.norm.sf(-mu / sigma))


def even(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Values:
    """Six of a hundred queries gain or lose one half."""
    changed, loses = rng.random(shape) < 0.06, rng.random(shape) < (1 - mean / 0.03) / 2
    return np.where(changed, np.where(loses, -0.5, 0.5), 0.0)


def lose_all(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Values:
    """Few queries lose everything, the others nothing."""
    return -(rng.random(shape) < -mean).astype(np.float64)


def noise_and_lose_all(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Values:
    return np.where(rng.random(shape) < -mean, -1.0, rng.normal(0, 0.02, shape))


def gain_much(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Values:
    """The mirror of `skewed`: a little lost on most queries, much gained on few."""
    return -skewed(rng, shape, -mean)


DISTRIBUTIONS: Mapping[str, Draw] = {
    "normal": normal,
    "sparse": sparse,
    "skewed": skewed,
    "even": even,
    "few lose all": lose_all,
    "noise, few lose all": noise_and_lose_all,
    "few gain much": gain_much,
}
LOSSES_ONLY = ("few lose all", "noise, few lose all")


def recorded(reference: Path, candidate: Path) -> Draw:
    """Draws from the recorded differences, tilted to the true mean (weights exp(c d)): the same changes, as rare."""
    before, now = ({row.benchmark: row.per_query for row in engine_rows(path)} for path in (reference, candidate))
    values = np.array([now[name][key] - value for name in before for key, value in before[name].items()])

    def tilted(slope: float) -> Values:
        weights: Values = special.softmax(slope * values)
        return weights

    def draw(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Values:
        slope = optimize.brentq(lambda slope: float(tilted(slope) @ values) - mean, -200, 200)
        drawn: Values = rng.choice(values, shape, p=tilted(slope))
        return drawn

    return draw


# Methods


def student(differences: Values, rng: np.random.Generator) -> Ends:
    count = differences.shape[1]
    reach = stats.t.ppf(1 - ALPHA, count - 1) * differences.std(axis=1, ddof=1) / np.sqrt(count)
    return Ends(differences.mean(axis=1) - reach, differences.mean(axis=1) + reach)


def each(one: SampleMethod, differences: Values, rng: np.random.Generator) -> Ends:
    """Apply a method of one sample to every trial."""
    ends = np.array([one(row, rng) for row in differences])
    return Ends(ends[:, 0], ends[:, 1])


def _resampled(row: Values, rng: np.random.Generator) -> tuple[Values, Values]:
    """Means and standard deviations of the bootstrap's samples."""
    drawn = row[rng.integers(0, len(row), (RESAMPLES, len(row)), dtype=np.uint16)]
    return drawn.mean(axis=1), drawn.std(axis=1)


def expanded_percentile(row: Values, rng: np.random.Generator) -> tuple[float, float]:
    """Hesterberg 2015: the percentile interval, widened to t's quantiles and to the unbiased variance."""
    count = len(row)
    tail = stats.norm.cdf(-np.sqrt(count / (count - 1)) * stats.t.ppf(1 - ALPHA, count - 1))
    lo, hi = np.quantile(_resampled(row, rng)[0], [tail, 1 - tail])
    return float(lo), float(hi)


def bootstrap_t(row: Values, rng: np.random.Generator) -> tuple[float, float]:
    means, deviations = _resampled(row, rng)
    with np.errstate(divide="ignore", invalid="ignore"):
        pivots = (means - row.mean()) / deviations
    low, high = (np.sort(np.nan_to_num(pivots, nan=end, posinf=np.inf, neginf=-np.inf)) for end in (-np.inf, np.inf))
    rank, spread = int(ALPHA * (RESAMPLES + 1)), row.std()
    if spread == 0:
        return float(row.mean()), float(row.mean())
    return float(row.mean() - high[-rank] * spread), float(row.mean() - low[rank - 1] * spread)


def bca(row: Values, rng: np.random.Generator) -> tuple[float, float]:
    """Efron 1987: the percentile interval, corrected for bias and acceleration."""
    means, centred = _resampled(row, rng)[0], row - row.mean()
    if not centred.any():
        return float(row.mean()), float(row.mean())
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    bias = stats.norm.ppf(((means < row.mean()).mean() + (means <= row.mean()).mean()) / 2)
    shifted = bias + stats.norm.ppf([ALPHA, 1 - ALPHA])
    lo, hi = np.quantile(means, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)))
    return float(lo), float(hi)


def sign_flips(row: Values, rng: np.random.Generator) -> tuple[float, float]:
    """The values that the sign-flip test does not reject: quantiles of the means of random subsets (Hartigan 1969)."""
    drawn = rng.integers(0, 2, (RESAMPLES, len(row)), dtype=np.uint8).astype(np.float32)
    means = np.sort(drawn @ row / np.maximum(drawn.sum(axis=1), 1))
    rank = int(ALPHA * (RESAMPLES + 1))
    return float(means[rank - 1]), float(means[-rank])


def empirical_bernstein(differences: Values, rng: np.random.Generator) -> Ends:
    """Maurer and Pontil 2009, theorem 4, for values in [-1, 1]."""
    count, log = differences.shape[1], np.log(2 / ALPHA)
    reach = np.sqrt(2 * differences.var(axis=1, ddof=1) * log / count) + 2 * 7 * log / (3 * (count - 1))
    return Ends(differences.mean(axis=1) - reach, differences.mean(axis=1) + reach)


def betting(differences: Values, rng: np.random.Generator) -> Ends:
    """Waudby-Smith and Ramdas 2024: the means against which no bet has earned 1 / alpha; queries in the given order."""
    return Ends(_bet(differences), -_bet(-differences))


def _bet(differences: Values) -> Values:
    """Lower ends. The stake is the predictable plug-in for a fixed number of queries, at most half of the capital."""
    values = (differences + 1) / 2
    trials, count = values.shape
    steps = np.arange(1, count + 1)
    means = (0.5 + values.cumsum(axis=1)) / (steps + 1)
    variances = (0.25 + ((values - means) ** 2).cumsum(axis=1)) / (steps + 1)
    before = np.hstack([np.full((trials, 1), 0.25), variances[:, :-1]])
    stakes = np.sqrt(2 * np.log(1 / ALPHA) / (count * before))
    low, high = np.zeros((trials, 1)), np.ones((trials, 1))
    for _ in range(20):
        middle = (low + high) / 2
        capital = np.log1p(np.minimum(stakes, 0.5 / middle) * (values - middle)).cumsum(axis=1).max(axis=1)
        rejected = capital[:, None] > np.log(1 / ALPHA)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return 2 * low[:, 0] - 1


class Gains(NamedTuple):
    """The gain that the upper end of `gaffke` assumes for queries that were not drawn."""

    largest: bool = True  # at least the largest gain seen
    typical: bool = True  # at least the root mean square of the changes
    everything: bool = False

    def assumed(self, values: Values) -> float:
        changes = values[values != 0]
        if self.everything or not len(changes):
            return float(self.everything)
        return max(self.largest * float(changes.max()), self.typical * float(np.sqrt((changes**2).mean())), 0.0)


CHOSEN = Gains()


def gaffke(row: Values, rng: np.random.Generator, *, gains: Gains = CHOSEN) -> tuple[float, float]:
    """Gaffke 2005: the Bayesian bootstrap with one more query, which loses everything."""
    return mixed([row], [1.0], rng, float(len(row)), gains)


def mixed(
    arrays: Sequence[Values],
    shares: Sequence[float],
    rng: np.random.Generator,
    effective: float,
    gains: Gains = CHOSEN,
) -> tuple[float, float]:
    """The ends for an average; the additional query has the weight of one among `effective`."""
    drawn = sum(share * _bayesian(array, rng) for array, share in zip(arrays, shares, strict=True))
    unseen, rank = rng.beta(1, effective, RESAMPLES), int(ALPHA * (RESAMPLES + 1))
    gain = gains.assumed(np.concatenate(arrays))
    low, high = ((1 - unseen) * drawn + unseen * end for end in (-1, gain))
    return float(np.sort(low)[rank - 1]), float(np.sort(high)[-rank])


def _bayesian(row: Values, rng: np.random.Generator) -> Values:
    values, counts = np.unique(row, return_counts=True)
    weights = rng.standard_gamma(counts, (RESAMPLES, len(counts)))
    means: Values = weights @ values / weights.sum(axis=1)
    return means


METHODS: Mapping[str, Method] = {
    "expanded percentile": partial(each, expanded_percentile),
    "Student's t": student,
    "bootstrap-t": partial(each, bootstrap_t),
    "BCa": partial(each, bca),
    "sign-flip inversion": partial(each, sign_flips),
    "empirical Bernstein": empirical_bernstein,
    "betting": betting,
    "Gaffke": partial(each, gaffke),
    "Gaffke, largest gain": partial(each, partial(gaffke, gains=Gains(typical=False))),
    "Gaffke, gain of 1": partial(each, partial(gaffke, gains=Gains(everything=True))),
}


# Tables


def error_rates(draws: Mapping[str, Draw], methods: Iterable[str], trials: int, seed: int) -> Iterator[ErrorRates]:
    for distribution, draw in draws.items():
        for queries in SIZES:
            rng = np.random.default_rng([seed, queries])
            samples = [
                draw(rng, (trials if loss == -MARGIN else trials // POWER_PART, queries), loss)
                if loss or distribution not in LOSSES_ONLY
                else None
                for loss in LOSSES
            ]
            for name in methods:
                yield _error_rates(name, distribution, queries, samples, rng)


def _error_rates(
    name: str, distribution: str, queries: int, samples: Sequence[Values | None], rng: np.random.Generator
) -> ErrorRates:
    ends = [None if sample is None else METHODS[name](sample, rng) for sample in samples]
    worst, equal, ten, twenty = ends
    assert worst is not None and ten is not None and twenty is not None
    return ErrorRates(
        name,
        distribution,
        queries,
        false_pass=float((worst.lo > -MARGIN).mean()),
        false_regression=float((worst.hi < -MARGIN).mean()),
        width=float((worst.hi - worst.lo).mean()),
        passes=float("nan") if equal is None else float((equal.lo > -MARGIN).mean()),
        finds_10=float((ten.hi < -MARGIN).mean()),
        finds_20=float((twenty.hi < -MARGIN).mean()),
    )


class Whole(NamedTuple):
    """Verdicts on whole comparisons in which every benchmark has the same true loss."""

    passes: float
    regressions: float


def whole(draw: Draw, sizes: Sequence[int], loss: float, trials: int, rng: np.random.Generator) -> Whole:
    """The mean is the gate; it or a single benchmark, after Holm's adjustment, may be a regression."""
    shares = [1 / len(sizes)] * len(sizes)
    passes = regressions = 0
    for _ in range(trials):
        arrays = [draw(rng, (1, size), loss)[0] for size in sizes]
        lo, hi = mixed(arrays, shares, rng, min(sizes) * len(sizes))
        alarm = hi < -MARGIN or _any_unit(arrays, rng)
        regressions += alarm
        passes += lo > -MARGIN and not alarm
    return Whole(passes / trials, regressions / trials)


def _any_unit(arrays: Sequence[Values], rng: np.random.Generator) -> bool:
    """Whether the smallest p is rejected by Holm's adjustment, which is that of Bonferroni for the smallest."""
    for array in arrays:
        unseen = rng.beta(1, len(array), RESAMPLES)
        high = (1 - unseen) * _bayesian(array, rng) + unseen * CHOSEN.assumed(array)
        if (1 + np.count_nonzero(high >= -MARGIN)) / (1 + RESAMPLES) * len(arrays) <= ALPHA:
            return True
    return False


def show(found: Iterable[ErrorRates]) -> None:
    print("| method | distribution | queries | false pass | false regression | coverage | width | passes at 0 "
          "| finds −0.010 | finds −0.020 |\n|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for cell in found:
        rates = (cell.false_pass, cell.false_regression, cell.coverage, cell.width, *cell[6:])
        written = " | ".join("-" if np.isnan(rate) else f"{rate:.3f}" for rate in rates)
        print(f"| {cell.method} | {cell.distribution} | {cell.queries:,} | {written} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="of each cell")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--distributions", nargs="+", default=None)
    parser.add_argument("--recorded", nargs=2, type=Path, metavar=("REFERENCE", "CANDIDATE"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("single", "several"))
    options = parser.parse_args()
    draws = dict(DISTRIBUTIONS)
    if options.recorded:
        draws["recorded"] = recorded(*options.recorded)
    draws = {name: draw for name, draw in draws.items() if name in (options.distributions or draws)}
    if options.only != "several":
        show(error_rates(draws, options.methods, options.trials, options.seed))
    if options.only != "single":
        print("\n| distribution | benchmarks | true loss | pass | regression |\n|:--|:--|--:|--:|--:|")
        for distribution, draw in draws.items():
            for layout, sizes in LAYOUTS.items():
                for loss in LOSSES:
                    if loss or distribution not in LOSSES_ONLY:
                        rng = np.random.default_rng(options.seed)
                        rates = whole(draw, sizes, loss, options.trials, rng)
                        print(
                            f"| {distribution} | {layout} | {loss:g} | {rates.passes:.3f} | {rates.regressions:.3f} |",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
