"""Verdicts of `compare` err as rarely as they say. The differences are drawn here, with numpy alone."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from harness.compare.noninferiority import effects, layout, verdict
from harness.figures.statistics import contrast, growth_to_pass

MARGIN, ALPHA = 0.005, 0.025
Rng = np.random.Generator
Values = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.figures.statistics.RESAMPLES", 399)  # the level of the ends is the same


def at_most(share: float, trials: int) -> float:
    """The share with twice its standard error in a simulation of so many trials."""
    return share + 2 * math.sqrt(share * (1 - share) / trials)


def lose_all(rng: Rng, size: int, mean: float) -> Values:
    return -(rng.random(size) < -mean).astype(float)


def noise_and_lose_all(rng: Rng, size: int, mean: float) -> Values:
    return np.where(rng.random(size) < -mean, -1.0, rng.normal(0, 0.02, size))


def sparse(rng: Rng, size: int, mean: float) -> Values:
    return np.where(rng.random(size) < 0.1, rng.normal(10 * mean, 0.12, size), 0.0)


def skewed(rng: Rng, size: int, mean: float) -> Values:
    """Few queries lose much: exponential losses, cubed; the mean of the cube is 6."""
    losses = np.minimum(rng.exponential(size=size) ** 3 / 300, 1.0)
    return mean + CAPPED - losses


CAPPED = float(np.minimum(np.random.default_rng(0).exponential(size=1_000_000) ** 3 / 300, 1.0).mean())


def halves(rng: Rng, size: int, mean: float) -> Values:
    """Six of a hundred queries gain or lose one half."""
    changed, loses = rng.random(size) < 0.06, rng.random(size) < (1 - mean / 0.03) / 2
    return np.where(changed, np.where(loses, -0.5, 0.5), 0.0)


def bounds(values: Values) -> tuple[float, float]:
    result = contrast({"b": {str(n): float(v) for n, v in enumerate(values)}}, {"b": 1.0}, threshold=-MARGIN)
    return result.lo, result.hi


@pytest.mark.parametrize(
    ("draw", "queries", "trials"),
    [
        (lose_all, 1000, 1000),
        (noise_and_lose_all, 1000, 300),
        (skewed, 300, 300),
        (sparse, 50, 500),
        (halves, 50, 1000),
    ],
)
def test_at_a_loss_of_the_margin_a_pass_and_a_regression_are_rare(
    draw: Callable[[Rng, int, float], Values], queries: int, trials: int
) -> None:
    rng = np.random.default_rng(1)
    ends = np.array([bounds(draw(rng, queries, -MARGIN)) for _ in range(trials)])
    assert np.mean(ends[:, 0] > -MARGIN) <= at_most(ALPHA, trials)
    assert np.mean(ends[:, 1] < -MARGIN) <= at_most(ALPHA, trials)


def test_a_loss_of_everything_that_no_query_shows_never_passes_below_736_queries() -> None:
    """At a rate of 0.005, 22% of samples of 300 queries show no loss at all."""
    rng = np.random.default_rng(2)
    assert not any(bounds(lose_all(rng, 300, -MARGIN))[0] > -MARGIN for _ in range(300))


def test_a_regression_is_found_and_no_loss_passes_with_the_power_that_is_planned() -> None:
    rng, trials = np.random.default_rng(3), 200
    found = np.mean([bounds(sparse(rng, 300, -0.02))[1] < -MARGIN for _ in range(trials)])
    assert found >= 0.95
    queries = math.ceil(growth_to_pass(0.12 * math.sqrt(0.1), 1, MARGIN))
    passed = np.mean([bounds(sparse(rng, queries, 0.0))[0] > -MARGIN for _ in range(trials)])
    assert passed == pytest.approx(0.8, abs=2 * math.sqrt(0.8 * 0.2 / trials) + 0.03)  # the plan is an approximation


@pytest.mark.parametrize(("draw", "sizes"), [(lose_all, (100,) * 8), (sparse, (50, 300, 2000))])
def test_comparisons_of_several_benchmarks_hold_both_levels(
    draw: Callable[[Rng, int, float], Values], sizes: tuple[int, ...]
) -> None:
    """Each benchmark loses the margin: 2.5% wrong passes, and 2.5% wrong regressions among each of gates and units."""
    rng, trials = np.random.default_rng(4), 150
    names = [f"b{number}" for number in range(len(sizes))]
    averaging = layout(names)
    outcomes = []
    for _ in range(trials):
        reference = {name: {str(n): 1.0 for n in range(size)} for name, size in zip(names, sizes, strict=True)}
        candidate = {
            name: {str(n): 1 + float(v) for n, v in enumerate(draw(rng, size, -MARGIN))}
            for name, size in zip(names, sizes, strict=True)
        }
        judged = effects(reference, candidate, averaging, MARGIN, {})
        outcomes.append(verdict(judged, averaging, MARGIN).outcome)
    assert outcomes.count("pass") / trials <= at_most(ALPHA, trials)
    assert outcomes.count("regression") / trials <= at_most(2 * ALPHA, trials)
