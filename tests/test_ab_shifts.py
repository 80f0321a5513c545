"""Estimates, intervals and p-values over launches, against scipy, printed tables and arithmetic by hand."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.figures.sequential import fewest_launch_pairs
from harness.figures.shifts import ALPHA, mann_whitney, paired, signed_rank, unpaired

numbers = st.floats(-1, 1).map(lambda value: round(value, 6))


def distinct(size: int, seed: int) -> list[float]:
    return list(np.random.default_rng(seed).normal(0.03, 0.02, size))


def test_the_estimate_is_the_median_of_the_walsh_averages() -> None:
    # Averages of two of 1, 2, 6: 1, 1.5, 3.5, 2, 4, 6.
    assert paired([1.0, 2.0, 6.0], 0.0).value == pytest.approx((2 + 3.5) / 2)


def test_the_unpaired_estimate_is_the_median_of_all_differences() -> None:
    # 4-1, 4-3, 9-1, 9-3
    assert unpaired([1.0, 3.0], [4.0, 9.0], 0.0).value == pytest.approx((3 + 6) / 2)


@pytest.mark.parametrize("launch_pairs", [1, 2, 3, 6])
def test_the_signed_rank_distribution_is_that_of_all_signs(launch_pairs: int) -> None:
    sums = [
        sum(rank for rank, sign in zip(range(1, launch_pairs + 1), signs, strict=True) if sign)
        for signs in product((0, 1), repeat=launch_pairs)
    ]
    assert signed_rank(launch_pairs) == pytest.approx(np.bincount(sums) / 2**launch_pairs)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 3), (4, 2), (6, 10)])
def test_the_mann_whitney_distribution_gives_scipys_p_values(a: int, b: int) -> None:
    values = np.random.default_rng(a * b).normal(size=a + b)
    first, second = values[:a], values[a:]
    tails = np.cumsum(mann_whitney(a, b))
    below = int(np.count_nonzero(np.subtract.outer(second, first) <= 0))
    assert tails[below] == pytest.approx(
        stats.mannwhitneyu(second, first, alternative="greater", method="exact").pvalue, abs=1e-12
    )


@pytest.mark.parametrize(
    ("launch_pairs", "outside", "level"),
    # Wilcoxon's table of the lower tail: P(W <= 2) = 3/64, P(W <= 5) = 10/256, P(W <= 10) = 43/1024
    [(5, 0, 1 - 1 / 32), (6, 2, 1 - 3 / 64), (8, 5, 1 - 10 / 256), (10, 10, 1 - 43 / 1024)],
)
def test_the_reached_confidence_is_that_of_wilcoxons_table(launch_pairs: int, outside: int, level: float) -> None:
    values = distinct(launch_pairs, 7)
    walsh = sorted((values[i] + values[j]) / 2 for i in range(launch_pairs) for j in range(i, launch_pairs))
    shift = paired(values, 0.0)
    assert shift.level == pytest.approx(level)
    assert (shift.lo, shift.hi) == (walsh[outside], walsh[-1 - outside])


def test_four_launch_pairs_reach_no_confidence_and_have_no_interval() -> None:
    shift = paired([0.1, 0.2, 0.3, 0.4], 0.0)  # P(W <= 0) = 1/16
    assert (shift.lo, shift.hi, shift.level) == (None, None, None)
    assert shift.p_slower == 1 / 16


@pytest.mark.parametrize("seed", range(20))
def test_p_is_scipys_exact_signed_rank_p(seed: int) -> None:
    values = distinct(10, seed)
    expected = stats.wilcoxon(np.array(values) - 0.02, alternative="greater", method="exact").pvalue
    assert paired(values, 0.02).p_slower == pytest.approx(expected, abs=1e-12)


@given(st.lists(numbers, min_size=5, max_size=12), numbers)
def test_the_bound_lies_below_the_interval_exactly_when_the_test_rejects_it(values: list[float], bound: float) -> None:
    shift = paired(values, bound)
    assert shift.lo is not None
    assert (shift.lo > bound) == (shift.p_slower <= ALPHA)


@given(st.lists(numbers, min_size=3, max_size=7), st.lists(numbers, min_size=4, max_size=7), numbers)
def test_an_unpaired_bound_lies_below_the_interval_exactly_when_the_test_rejects_it(
    a: list[float], b: list[float], bound: float
) -> None:
    shift = unpaired(a, b, bound)
    assert shift.lo is not None
    assert (shift.lo > bound) == (shift.p_slower <= ALPHA)


@given(st.lists(numbers, min_size=5, max_size=12))
def test_swapped_engines_mirror_the_interval(values: list[float]) -> None:
    shift, mirrored = paired(values, 0.0), paired([-value for value in values], 0.0)
    assert (shift.lo, shift.value, shift.hi) == (-mirrored.hi, -mirrored.value, -mirrored.lo)  # type: ignore[operator]


def test_three_launches_per_engine_just_reach_the_level() -> None:
    shift = unpaired([1.0, 2.0, 3.0], [11.0, 12.0, 13.0], 0.0)  # 1 of 20 orders puts all of b above all of a
    assert (shift.p_slower, shift.level) == (1 / 20, 0.95)
    assert (shift.lo, shift.hi) == (11 - 3, 13 - 1)


def test_values_equal_to_the_bound_are_not_evidence_against_it() -> None:
    assert paired([0.0] * 8, 0.0).p_slower == 1.0


@pytest.mark.parametrize("tests", [1, 2, 3, 4])
def test_the_fewest_launch_pairs_are_those_at_which_holm_can_reject(tests: int) -> None:
    fewest = fewest_launch_pairs(tests)
    assert tests * 2.0**-fewest <= ALPHA < tests * 2.0 ** -(fewest - 1)
    assert math.isclose(paired([0.1 * (i + 1) for i in range(fewest)], 0.0).p_slower, 2.0**-fewest)
