"""Change points of a history: none in noise, a step at its position, the cheapest of all fits."""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.figures.changepoints import (
    LEAST_LENGTH,
    LEAST_POINTS,
    MOST_POINTS,
    PENALTY,
    best_starts,
    deviations,
    levels,
    noise,
)

FIGURES = st.lists(st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=9, max_size=12)


def changes(values: list[float]) -> list[int]:
    return [level.start for level in levels(values)[1:]]


def cost(values: np.ndarray[tuple[int], np.dtype[np.float64]], starts: tuple[int, ...], penalty: float) -> float:
    """The cost of a fit by its definition."""
    total = penalty * len(starts)
    for start, stop in zip(starts, (*starts[1:], len(values)), strict=True):
        total += float(np.abs(values[start:stop] - np.median(values[start:stop])).sum())
    return total


def fits(count: int) -> Iterator[tuple[int, ...]]:
    """Every partition of `count` points into levels of at least LEAST_LENGTH."""
    for number in range(count // LEAST_LENGTH):
        for inner in combinations(range(1, count), number):
            ends = (0, *inner, count)
            if all(b - a >= LEAST_LENGTH for a, b in pairwise(ends)):
                yield (0, *inner)


@settings(max_examples=40)
@given(FIGURES, st.floats(0.1, 50))
def test_no_other_fit_costs_less(figures: list[float], penalty: float) -> None:
    values = np.array(figures)
    least = cost(values, tuple(best_starts(values, penalty)), penalty)
    assert least <= min(cost(values, starts, penalty) for starts in fits(len(values))) + 1e-9


@settings(max_examples=30)
@given(FIGURES)
def test_deviations_are_measured_from_the_median(figures: list[float]) -> None:
    values = np.array(figures)
    costs = deviations(values)
    for start, stop in ((0, len(values)), (1, 5), (2, 8)):
        assert costs[start, stop] == pytest.approx(np.abs(values[start:stop] - np.median(values[start:stop])).sum())
    assert costs[0, LEAST_LENGTH - 1] == np.inf


@settings(max_examples=40)
@given(st.lists(st.floats(-1e6, 1e6), max_size=40))
def test_levels_cover_every_point_once_in_order_or_a_short_history_has_no_level(figures: list[float]) -> None:
    fitted = levels(figures)
    assert bool(fitted) == (len(figures) >= LEAST_POINTS)
    covered = [index for level in fitted for index in range(level.start, level.stop)]
    assert covered == (list(range(len(figures))) if fitted else [])


@settings(max_examples=40)
@given(FIGURES.filter(lambda figures: len(figures) >= LEAST_POINTS), st.integers(-3, 3), st.integers(-50, 50))
def test_changes_do_not_depend_on_the_unit(figures: list[float], power: int, shift: int) -> None:
    eighths = [round(8 * figure) / 8 for figure in figures]  # exact after scaling
    assert changes([2.0**power * figure + shift for figure in eighths]) == changes(eighths)


@pytest.mark.parametrize("points", [10, 20, 40])
def test_a_history_without_a_change_raises_an_alarm_in_at_most_six_percent(points: int) -> None:
    rng = np.random.default_rng(20261125)
    size = (80, points)
    drawn = np.concatenate([rng.standard_normal(size), rng.standard_t(3, size), rng.lognormal(0, 0.5, size)])
    alarms = [bool(changes(list(figures))) for figures in drawn]
    assert 0 < sum(alarms) / len(alarms) <= 0.06  # no alarm at all would mean a blind test


def test_a_step_of_four_standard_deviations_is_located_within_one_point() -> None:
    rng = np.random.default_rng(20261125)
    near = []
    for _ in range(100):
        figures = rng.standard_normal(30)
        figures[18:] += 4.0
        starts = changes(list(figures))
        near.append(len(starts) >= 1 and min(abs(start - 18) for start in starts) <= 1)
    assert sum(near) / len(near) >= 0.97


def test_two_steps_give_two_changes() -> None:
    rng = np.random.default_rng(1)
    figures = rng.normal(100, 1, 40)
    figures[12:25] += 8
    assert changes(list(figures)) == [12, 25]
    assert [round(level.value) for level in levels(list(figures))] == [100, 108, 100]


def test_a_single_wild_point_is_not_a_level() -> None:
    figures = list(np.random.default_rng(2).normal(100, 1, 20))
    for wild in (0, 7, 19):
        assert changes([1000.0 if index == wild else figure for index, figure in enumerate(figures)]) == []


def test_a_repeated_figure_changes_only_after_the_new_level_has_lasted() -> None:
    assert changes([0.27] * 12) == []
    assert changes([0.27] * 12 + [0.25] * 5) == []
    assert changes([0.27] * 12 + [0.25] * 8) == [12]


def test_too_few_points_have_no_levels_and_only_the_newest_of_too_many_are_used() -> None:
    assert levels([1.0] * (LEAST_POINTS - 1)) == []
    figures = [0.0] * 50 + [9.0, 9.1] * (MOST_POINTS // 2)
    assert [(level.start, level.stop) for level in levels(figures)] == [(50, 50 + MOST_POINTS)]


def test_the_noise_of_normal_figures_is_about_their_standard_deviation() -> None:
    assert noise(np.random.default_rng(3).normal(0, 2, 20_000)) == pytest.approx(0.954 * 2, rel=0.03)
    assert noise(np.array([5.0, 5.0, 5.0])) == 0.0
    assert PENALTY == 6.0  # the value that docs/check.md documents as simulated
