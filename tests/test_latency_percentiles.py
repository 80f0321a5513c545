"""Percentiles with their intervals and sample floors. Golden floors are MLPerf's and EndPoints' published tables."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.figures.percentiles import QUANTILES, effective, estimate, estimates, floors_of, objective, under_needed

SAMPLES = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=500)


def numbered(n: int) -> list[float]:
    """The numbers 1 to n, so that every sample equals its rank; neighbours are on opposite sides of the median."""
    half = (n + 1) // 2
    upper, lower = range(half + 1, n + 1), range(1, half + 1)
    dealt = [float(value) for pair in zip(lower, upper, strict=False) for value in pair]
    return dealt + [float(half)] * (n % 2)


@pytest.mark.parametrize(
    ("quantile", "shown", "interval", "conservative"),
    [
        (0.50, 5, 6, 11),
        (0.90, 29, 36, 64),
        (0.95, 59, 72, 130),
        (0.99, 299, 368, 662),
        (0.999, 2995, 3688, 6636),
    ],
)
def test_floors_match_the_published_tables(quantile: float, shown: int, interval: int, conservative: int) -> None:
    assert floors_of(quantile)[:3] == (shown, interval, conservative)


@pytest.mark.parametrize(("quantile", "queries"), [(0.90, 23_886), (0.99, 262_742)])
def test_the_rule_without_early_stopping_needs_the_number_of_queries_that_mlperf_states(
    quantile: float, queries: int
) -> None:
    assert floors_of(quantile).precise == queries


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("over", [0, 1, 2, 10, 50])
def test_h_of_t_is_the_smallest_number_that_the_definition_of_loadgen_accepts(quantile: float, over: int) -> None:
    def chance(under: int) -> float:
        """P[Binomial(h + t, 1 - p) <= t], summed term by term."""
        n = under + over
        return sum(math.comb(n, k) * (1 - quantile) ** k * quantile ** (n - k) for k in range(over + 1))

    needed = under_needed(over, quantile)
    assert chance(needed) < 0.01 <= chance(needed - 1)


@pytest.mark.parametrize(
    ("n", "lo", "hi", "conservative"),
    [
        (500, 490, 500, None),  # p98.0 to the largest
        (1000, 983, 997, 999),  # p98.3 to p99.7
        (5000, 4936, 4964, 4968),  # p98.7 to p99.3
    ],
)
def test_the_interval_of_a_p99_spans_known_ranks(n: int, lo: int, hi: int, conservative: int | None) -> None:
    result = estimate(numbered(n), 0.99)
    assert result == (math.ceil(0.99 * n), lo, hi, conservative, n, n, result.reason)


@pytest.mark.parametrize(("name", "floor"), [("p50", 5), ("p90", 29), ("p95", 59), ("p99", 299)])
def test_below_its_floor_a_percentile_is_null_with_a_reason(name: str, floor: int) -> None:
    below, at = (estimate(numbered(n), QUANTILES[name]) for n in (floor - 1, floor))
    assert below[:4] == (None, None, None, None)
    assert below.reason == f"{floor - 1} effective of {floor - 1} samples, {floor} needed"
    assert at.estimate is not None


def test_an_upper_end_that_does_not_exist_is_null_with_a_reason() -> None:
    result = estimate(numbered(367), 0.99)
    assert (result.lo, result.hi, result.conservative) == (359, None, None)
    assert result.reason == "367 effective samples; an interval needs 368 and the conservative bound needs 662"
    assert estimate(numbered(368), 0.99).hi == 368


@given(values=SAMPLES)
def test_the_values_of_a_percentile_are_samples_in_order(values: list[float]) -> None:
    for percentile in estimates(values).values():
        ordered = [value for value in (percentile.lo, percentile.estimate, percentile.hi) if value is not None]
        assert ordered == sorted(ordered)
        assert {*ordered, percentile.conservative} - {None} <= set(values)
        if percentile.conservative is not None and percentile.estimate is not None:
            assert percentile.conservative >= percentile.estimate
        assert (percentile.estimate is None) <= (percentile.hi is None)
        assert 1 <= percentile.n_eff <= percentile.n == len(values)


@given(values=SAMPLES)
def test_percentiles_increase_with_their_quantile(values: list[float]) -> None:
    for field in ("lo", "estimate", "hi", "conservative"):
        values_of_field = [
            value for percentile in estimates(values).values() if (value := getattr(percentile, field)) is not None
        ]
        assert values_of_field == sorted(values_of_field)


@given(values=SAMPLES, factor=st.sampled_from([0.5, 2.0, 1024.0]))
def test_percentiles_scale_with_the_unit(values: list[float], factor: float) -> None:
    scaled = estimates([factor * value for value in values])
    for percentile, in_unit in zip(estimates(values).values(), scaled.values(), strict=True):
        assert in_unit[:4] == tuple(None if value is None else factor * value for value in percentile[:4])


@settings(max_examples=30)
@given(over=st.integers(0, 200), quantile=st.sampled_from([0.5, 0.9, 0.99]))
def test_more_slow_requests_need_more_fast_ones(over: int, quantile: float) -> None:
    assert under_needed(over + 1, quantile) > under_needed(over, quantile)


def coverage(draw: np.ndarray, truth: float, quantile: float) -> tuple[float, float]:
    """Shares of rows whose interval contains the truth and of rows whose conservative bound is not below it."""
    rows = [estimate(list(row), quantile) for row in draw]
    inside = [row.lo <= truth <= row.hi for row in rows if row.lo is not None and row.hi is not None]
    above = [row.conservative >= truth for row in rows if row.conservative is not None]
    assert len(inside) > 0.9 * len(rows) and len(above) > 0.9 * len(rows)
    return float(np.mean(inside)), float(np.mean(above))


@pytest.mark.parametrize(("quantile", "n"), [(0.5, 60), (0.9, 200), (0.99, 1200)])
def test_intervals_of_independent_samples_have_their_nominal_coverage(quantile: float, n: int) -> None:
    draw = np.random.default_rng(7).exponential(size=(600, n))
    inside, above = coverage(draw, -math.log(1 - quantile), quantile)
    assert inside >= 0.95 - 0.027  # three standard errors of 600 draws
    assert above >= 0.99 - 0.012


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_intervals_of_correlated_samples_have_their_nominal_coverage(quantile: float) -> None:
    """Neighbours correlate by 0.7, as in a queue; intervals for independent samples would cover too seldom."""
    rng = np.random.default_rng(11)
    noise = rng.normal(size=(400, 700))
    for column in range(1, noise.shape[1]):
        noise[:, column] = 0.7 * noise[:, column - 1] + math.sqrt(1 - 0.49) * noise[:, column]
    truth = {0.5: 0.0, 0.9: 1.2815515655446004}[quantile]  # quantiles of the standard normal distribution
    inside, above = coverage(noise, truth, quantile)
    assert inside >= 0.95 - 0.033
    assert above >= 0.99 - 0.015


def test_correlated_samples_count_less() -> None:
    assert effective([float(value) for value in range(100)]) == 1  # r = 0.97: 100 * 0.03 / 1.97 = 1.5
    assert effective(numbered(100)) == 100  # negative correlation never raises the number above 100
    assert effective([1.0, 1.0, 2.0, 2.0] * 25) == 98  # 50 equal neighbours, 49 others: r = 1 / 100
    assert effective([2.0, 2.0]) == 2 and effective([]) == 0


def test_half_correlated_samples_count_a_third() -> None:
    """By hand: (1 - 1/2) / (1 + 1/2) = 1/3."""
    block = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert effective(block * 100) == 265  # 600 equal neighbours, 199 others: r = 401 / 800; 800 * 0.49875 / 1.50125


def test_floors_and_ranks_follow_from_the_effective_samples() -> None:
    """Every value occurs four times in a row: the ranks for `n_eff` are stretched over the 800 samples."""
    values = [value for value in numbered(200) for _ in range(4)]
    result = estimate(values, 0.9)
    n_eff = result.n_eff
    assert 100 < n_eff < 300 and result.n == 800
    assert estimate(values, 0.99).estimate is None  # 800 would be more than its floor of 299
    lo, hi = (int(stats.binom.ppf(share, n_eff, 0.9)) for share in (0.025, 0.975))
    assert result.lo == sorted(values)[lo * 800 // n_eff - 1]
    assert result.hi == sorted(values)[-((hi + 1) * -800 // n_eff) - 1]
    assert result.hi - result.lo > 1.4 * _width(numbered(800)) / 4  # wider than for independent samples


def _width(values: list[float]) -> float:
    result = estimate(values, 0.9)
    assert result.lo is not None and result.hi is not None
    return result.hi - result.lo


def test_an_outlier_does_not_hide_a_correlation() -> None:
    block = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert effective([*(block * 100), 1e9]) < 280


@pytest.mark.parametrize(
    ("n", "over", "needed", "verdict"),
    [
        (661, 0, 662, "inconclusive"),  # h(0) needs 459; the bound of the p99 needs 662
        (662, 0, 662, "pass"),
        (662, 1, 662, "pass"),  # h(1) + 1
        (837, 2, 838, "inconclusive"),  # 0.24% were slow, but there are too few to be sure
        (838, 2, 838, "pass"),  # h(2) + 2
        (700, 100, 12_349, "fail"),
        (298, 59, 7_938, "inconclusive"),  # too few samples for a p99
        (298, 60, 8_053, "fail"),  # 20% slow, where 1% is allowed: one run in twenty at most (Markov)
    ],
)
def test_an_objective_needs_h_of_t_plus_t_requests(n: int, over: int, needed: int, verdict: str) -> None:
    values = [1.0 if value <= n - over else 3.0 for value in numbered(n)]
    result = objective(values, slo_s=2.0)
    assert (result.over, result.n, result.verdict) == (over, n, verdict)
    if over < 100:
        assert result.needed == needed


def test_failed_requests_count_as_slow() -> None:
    result = objective([math.inf if value > 900 else 1.0 for value in numbered(1000)], slo_s=2.0)
    assert (result.over, result.verdict) == (100, "fail")


def test_an_objective_without_samples_is_inconclusive() -> None:
    assert objective([], slo_s=1.0).verdict == "inconclusive"
