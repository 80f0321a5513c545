"""Intervals equal scipy's bootstrap, are near the closed form and do not depend on the order of the values."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.figures.statistics import (
    contrast,
    decided_distance,
    effective_queries,
    growth_to_find,
    growth_to_pass,
    holm,
    least_queries,
    letters,
    mean,
    means,
    paired_difference,
    sign_flip,
    standardised,
    unseen_loss,
)
from harness.records import Difference, Measurement

VALUES = {f"q{number}": value for number, value in enumerate([0.0, 0.63, 1.0, 0.5, 0.0, 0.39, 1.0, 0.0])}

per_query = st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=2, max_size=12)


def test_the_interval_equals_the_percentile_bootstrap_of_scipy() -> None:
    direct = stats.bootstrap(
        (np.array(list(VALUES.values())),),
        np.mean,
        n_resamples=9999,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert mean(VALUES) == Measurement(pytest.approx(0.44), float(direct.low), float(direct.high))


def test_the_interval_of_many_queries_is_near_the_normal_approximation() -> None:
    # 400 queries, half 0 and half 1: mean 0.5, standard error sqrt(0.25 / 400) = 0.025, interval 0.5 ± 1.96 * 0.025.
    measured = mean({str(number): float(number % 2) for number in range(400)})
    assert measured.value == 0.5
    assert measured.lo == pytest.approx(0.451, abs=0.002)
    assert measured.hi == pytest.approx(0.549, abs=0.002)


def test_the_order_of_the_queries_does_not_matter() -> None:
    reordered = dict(reversed(VALUES.items()))
    assert mean(reordered) == mean(VALUES)
    baseline = dict.fromkeys(VALUES, 0.5)
    assert paired_difference(reordered, baseline) == paired_difference(VALUES, baseline)


def test_resampling_in_batches_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, flips = mean(VALUES), sign_flip(single(np.linspace(-0.1, 0.2, 40)), {"b": 1.0})
    monkeypatch.setattr("harness.figures.statistics.CACHED_VALUES", 100)
    assert mean(VALUES) == whole
    assert sign_flip(single(np.linspace(-0.1, 0.2, 40)), {"b": 1.0}) == flips


def test_measures_have_the_same_intervals_together_and_alone() -> None:
    flat, squared = dict.fromkeys(VALUES, 0.5), {query_id: 1 - value**2 for query_id, value in VALUES.items()}
    together = {"first": VALUES, "flat": flat, "other": squared}
    assert means(together) == {name: mean(values) for name, values in together.items()}
    assert means({"flat": flat, "zero": dict.fromkeys(VALUES, 0.0)})["zero"] == Measurement(0.0, 0.0, 0.0)
    assert means({"first": {"q": 0.7}, "second": {"q": 0.1}})["second"] == Measurement(0.1, None, None)


def test_one_query_has_no_interval() -> None:
    assert mean({"q": 0.7}) == Measurement(0.7, None, None)


def test_equal_values_have_an_interval_of_zero_width() -> None:
    assert mean({"q": 0.25, "r": 0.25}) == Measurement(0.25, 0.25, 0.25)


def test_a_difference_pairs_the_queries_and_counts_them() -> None:
    a, b = {"q": 0.75, "r": 0.5}, {"r": 0.25, "q": 0.5}
    assert paired_difference(a, b) == Difference(0.25, 0.25, 0.25, 2)


def test_pairing_removes_the_variation_that_engines_share() -> None:
    # Queries differ a lot and the engines by 0.01 to 0.02 on every query; without pairing the noise would hide it.
    a = {query_id: value + 0.01 + 0.001 * number for number, (query_id, value) in enumerate(VALUES.items())}
    difference = paired_difference(a, VALUES)
    assert 0.01 < difference.lo < difference.value < difference.hi < 0.02


def test_a_difference_over_different_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 queries, 1 not in both"):
        paired_difference({"q": 0.5, "r": 0.5}, {"q": 0.5})


@settings(max_examples=25, deadline=None)
@given(values=per_query)
def test_an_interval_contains_the_mean_and_stays_within_the_values(values: dict[str, float]) -> None:
    measured = mean(values)
    assert measured.lo is not None and measured.hi is not None
    assert measured.value == pytest.approx(math.fsum(values.values()) / len(values))
    slack = 1e-12
    assert min(values.values()) - slack <= measured.lo <= measured.value + slack
    assert measured.value - slack <= measured.hi <= max(values.values()) + slack


@settings(max_examples=25, deadline=None)
@given(values=per_query, data=st.data())
def test_swapped_sides_change_the_sign_of_a_difference(values: dict[str, float], data: st.DataObject) -> None:
    baseline = {query_id: data.draw(st.floats(0, 1)) for query_id in values}
    difference, swapped = paired_difference(values, baseline), paired_difference(baseline, values)
    assert difference.value == -swapped.value
    assert (difference.lo, difference.hi) == (
        pytest.approx(-swapped.hi, abs=1e-9),
        pytest.approx(-swapped.lo, abs=1e-9),
    )
    assert paired_difference(values, values) == Difference(0.0, 0.0, 0.0, len(values))


def single(values: "dict[str, float] | np.ndarray[tuple[int], np.dtype[np.float64]]") -> dict[str, dict[str, float]]:
    """Differences of a single benchmark."""
    by_query = values if isinstance(values, dict) else {f"q{number:04}": float(v) for number, v in enumerate(values)}
    return {"b": by_query}


@pytest.mark.parametrize(("losses", "queries"), [(0, 60), (1, 60), (3, 200), (9, 736)])
def test_for_total_losses_the_lower_end_is_that_of_clopper_and_pearson(losses: int, queries: int) -> None:
    result = contrast(single(np.repeat([-1.0, 0.0], [losses, queries - losses])), {"b": 1.0}, threshold=-0.005)
    exact = stats.binomtest(losses, queries).proportion_ci(0.95, "exact").high
    assert result.lo == pytest.approx(-exact, rel=0.03)


def test_losses_alone_are_a_regression_from_six_on_as_in_the_sign_test() -> None:
    # 0.5 ** 5 = 0.031 and 0.5 ** 6 = 0.016: five equal losses and no gain are not rare enough, six are
    five, six = (contrast(single(np.repeat([-0.5, 0.0], [n, 20 - n])), {"b": 1.0}, threshold=0.0) for n in (5, 6))
    assert five.hi > 0 > six.hi
    assert (five.p_below, six.p_below) == (pytest.approx(0.5**5, abs=0.005), pytest.approx(0.5**6, abs=0.004))


def test_the_p_value_and_the_upper_end_agree() -> None:
    rng = np.random.default_rng(7)
    for row in rng.normal(-0.02, 0.05, (50, 80)):
        result = contrast(single(row), {"b": 1.0}, threshold=-0.01)
        assert (result.p_below <= 0.025) == (result.hi < -0.01)


def test_bounds_of_many_queries_are_near_the_normal_approximation() -> None:
    # 4,000 queries, half 0 and half 1: 0.5 ± 1.96 * 0.5 / sqrt(4000), and below one more query that loses everything.
    result = contrast(single(np.arange(4000.0) % 2), {"b": 1.0}, threshold=0.0)
    assert (result.lo, result.hi) == (pytest.approx(0.5 - 0.0160, abs=7e-4), pytest.approx(0.5 + 0.0156, abs=7e-4))


def test_neither_the_batches_nor_the_names_of_the_queries_change_a_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).normal(0, 0.1, 40)
    whole = contrast(single(values), {"b": 1.0}, threshold=0.0)
    assert contrast(single(values[::-1]), {"b": 1.0}, threshold=0.0)[1:3] == whole[1:3]
    monkeypatch.setattr("harness.figures.statistics.BATCH_VALUES", 100)
    assert contrast(single(values), {"b": 1.0}, threshold=0.0) == pytest.approx(whole, abs=1e-12)


def test_many_values_get_fewer_draws_of_the_same_level(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).normal(0, 0.1, 400)
    whole = contrast(single(values), {"b": 1.0}, threshold=0.0)
    monkeypatch.setattr("harness.figures.statistics.DRAWN_VALUES", 400 * 2000)
    fewer = contrast(single(values), {"b": 1.0}, threshold=0.0)
    assert (fewer.lo, fewer.hi) == (pytest.approx(whole.lo, abs=0.001), pytest.approx(whole.hi, abs=0.001))


def test_an_average_counts_as_the_benchmark_with_the_fewest_queries_for_its_share() -> None:
    assert effective_queries({"a": 50, "b": 1000}, {"a": 0.5, "b": 0.5}) == 100
    assert effective_queries({"a": 300}, {"a": 1.0}) == 300
    # 50 queries of half of the weight show no total loss in 2.5% at a rate of 0.0711, which costs 0.0356 on average.
    still = {name: {f"q{n}": 0.0 for n in range(size)} for name, size in (("a", 50), ("b", 1000))}
    result = contrast(still, {"a": 0.5, "b": 0.5}, threshold=0.0)
    assert -0.0363 < result.lo < -0.0356


def test_differences_without_a_limit_have_mirrored_bounds() -> None:
    values = np.random.default_rng(5).normal(3, 20, 60)
    forth, back = (contrast(single(sign * values), {"b": 1.0}, threshold=0.0, largest_loss=None) for sign in (1, -1))
    assert (back.lo, back.hi) == (pytest.approx(-forth.hi, abs=0.3), pytest.approx(-forth.lo, abs=0.3))


def test_an_average_weights_benchmarks_and_not_queries_and_resamples_them_separately() -> None:
    # Half of the weight is on 4 queries of mean 1 and half on 400 of mean 0; the pooled mean would be 0.01.
    few, many = {"a": 0.9, "b": 1.1, "c": 1.0, "d": 1.0}, {f"q{number}": (-1.0) ** number for number in range(400)}
    result = contrast({"few": few, "many": many}, {"few": 0.5, "many": 0.5}, threshold=0.0)
    assert result.value == pytest.approx(0.5)
    # The variances of the means are (0.08165 / 2)^2 and (1.00125 / 20)^2.
    assert result.standard_error == pytest.approx(0.5 * math.hypot(0.040825, 0.050063), rel=1e-4)
    flat = contrast({"few": few, "many": dict.fromkeys(many, 0.0)}, {"few": 0.5, "many": 0.5}, threshold=0.0)
    assert flat.standard_error == pytest.approx(0.5 * 0.040825, rel=1e-4)


def test_a_benchmark_of_one_query_has_no_standard_error_and_wide_bounds() -> None:
    result = contrast({"lone": {"q": 0.5}, "full": VALUES}, {"lone": 0.5, "full": 0.5}, threshold=0.0)
    assert result.standard_error is None
    assert result.lo < -0.5


@settings(max_examples=25, deadline=None)
@given(values=st.dictionaries(st.text(max_size=3), st.floats(-1, 1), min_size=1, max_size=12))
def test_bounds_enclose_the_mean_and_leave_room_for_an_unseen_loss(values: dict[str, float]) -> None:
    result = contrast(single(values), {"b": 1.0}, threshold=0.1)
    assert -1 <= result.lo <= result.value + 1e-12
    assert result.value - 1e-12 <= result.hi <= 1
    best = max(values.values())
    assert result.lo <= best - unseen_loss(len(values)) * (1 + best) + 1e-9
    negated = {query_id: -value for query_id, value in reversed(values.items())}
    assert sign_flip(single(values), {"b": 1.0}) == sign_flip(single(negated), {"b": 1.0})


def test_sign_flips_of_few_queries_are_enumerated() -> None:
    values = {"a": 0.5, "b": -0.25, "c": 0.375, "d": 0.125, "e": 0.0}
    total = sum(values.values())
    flips = [sum(s * v for s, v in zip(signs, values.values(), strict=True)) for signs in product((1, -1), repeat=5)]
    result = sign_flip(single(values), {"b": 1.0})
    assert result == (sum(abs(flip) >= abs(total) for flip in flips) / len(flips), True)


def test_sign_flips_of_many_queries_are_sampled_and_near_the_t_test() -> None:
    values = np.random.default_rng(3).normal(0.02, 0.1, 200)
    result = sign_flip(single(values), {"b": 1.0})
    assert not result.exact
    assert result.value == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.005)


@pytest.mark.parametrize("count", [13, 14, 15, 50, 301])
def test_sampled_sign_flips_equal_the_permutation_test_of_scipy(count: int) -> None:
    values = np.random.default_rng(count).normal(0.02, 0.1, count)
    direct = stats.permutation_test(
        (values / count,), np.sum, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
    )
    assert sign_flip(single(values), {"b": 1.0}) == (direct.pvalue, len(direct.null_distribution) == 2**count)


def test_with_fewer_than_two_differences_the_p_value_is_one() -> None:
    assert sign_flip(single({"a": 0.0, "b": 0.0}), {"b": 1.0}) == (1.0, True)
    assert sign_flip(single({"a": 0.7, "b": 0.0}), {"b": 1.0}) == (1.0, True)


def test_holm_multiplies_the_smallest_p_value_most_and_keeps_the_order() -> None:
    # Holm 1979: 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.9 * 1; no value is below the previous one.
    assert holm({"d": 0.9, "a": 0.01, "c": 0.03, "b": 0.02}) == pytest.approx(
        {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.9}
    )
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_the_standardised_difference_is_the_mean_over_the_standard_deviation() -> None:
    assert standardised({"a": 1.0, "b": 3.0}) == pytest.approx(math.sqrt(2))  # mean 2, sd sqrt(2)
    assert standardised({"a": 1.0, "b": 1.0}) is None and standardised({"a": 1.0}) is None


def test_the_number_of_queries_that_finds_a_regression_follows_julious() -> None:
    # (1.959964 + 0.841621)^2 = 7.848880; a standard error of 0.01 against 0.005: four times as much
    assert growth_to_find(0.01, 0.005) == pytest.approx(31.39552, abs=1e-4)


def test_the_fewest_queries_that_exclude_an_unseen_loss() -> None:
    # 0.025 = 0.995 ** 735.9 = 0.99 ** 367.04
    assert (least_queries(0.005), least_queries(0.01)) == (736, 368)
    assert unseen_loss(736) < 0.005 < unseen_loss(735)
    assert growth_to_pass(0.0, 100, 0.005) == pytest.approx(7.3593, abs=1e-4)


@pytest.mark.parametrize("spread", [1e-9, 1e-5, 0.01, 0.1, 1.0])
def test_the_growth_that_passes_reaches_exactly_the_distance(spread: float) -> None:
    factor = growth_to_pass(spread, 1, 0.005)
    assert decided_distance(spread / math.sqrt(factor), factor) == pytest.approx(0.005, rel=1e-6)


def test_engines_that_cannot_be_distinguished_share_a_letter() -> None:
    pairs = [frozenset(pair) for pair in ("ac", "ad", "bd")]
    assert letters("abcd", pairs) == {"a": "a", "b": "ab", "c": "bc", "d": "c"}
    assert letters("abc", []) == dict.fromkeys("abc", "a")
    assert letters("abc", [frozenset(pair) for pair in ("ab", "ac", "bc")]) == {"a": "a", "b": "b", "c": "c"}
    names = [str(number) for number in range(30)]
    alone = letters(names, [frozenset(pair) for pair in combinations(names, 2)])
    assert (alone["25"], alone["26"], alone["27"]) == ("z", "aa", "ab")


@settings(max_examples=50, deadline=None)
@given(pairs=st.sets(st.sampled_from([frozenset(pair) for pair in combinations("abcdef", 2)])))
def test_two_engines_share_a_letter_exactly_if_they_are_not_distinct(pairs: set[frozenset[str]]) -> None:
    result = letters("abcdef", pairs)
    for a, b in combinations("abcdef", 2):
        assert bool(set(result[a]) & set(result[b])) == (frozenset((a, b)) not in pairs)
