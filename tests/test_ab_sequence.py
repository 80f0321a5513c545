"""When an A/B run ends: its looks, its error rates, its limits, its forecasts, and what is said meanwhile."""

import math
import time
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest

from harness.ab import sequence, warmup
from harness.ab.forecast import MetricForecast, forecast, is_futile, scale
from harness.ab.margins import MARGINS
from harness.ab.outlook import busy, more, slow_line
from harness.ab.records import LaunchPair, LaunchPlan, MetricFinding, Round
from harness.ab.sequence import LaunchSequence, measure
from harness.figures.sequential import at_look, detectable, plan_looks

Drawn = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def test_looks_come_after_six_and_then_every_second_launch_pair_and_later_more_rarely() -> None:
    assert plan_looks(11, 1).numbers == [6, 8, 10, 11]
    assert plan_looks(60, 1).numbers == [6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 60]
    assert (plan_looks(6, 1).numbers, plan_looks(4, 1).numbers) == ([6], [4])


def test_a_single_look_has_the_counts_of_wilcoxons_table() -> None:
    # P(W <= 2) = 3/64 and P(W <= 3) = 5/64; a third of 5%: P(W <= 0) = 1/64; a quarter is less than that.
    assert [plan_looks(6, tests).lower[6] for tests in (1, 3, 4)] == [3, 1, 0]
    assert plan_looks(6, 4).upper[6] == 3
    assert (plan_looks(5, 1).lower[5], plan_looks(4, 1).fewest) == (1, None)  # 1/32 and 1/16


@pytest.mark.parametrize("tests", [1, 3])
def test_the_crossings_of_all_signs_spend_the_error_rate_in_proportion(tests: int) -> None:
    """All 1,024 signs of ten values whose distances grow, so that the rank of a value is its number."""
    looks = plan_looks(10, tests)
    signs = np.array(list(product((0, 1), repeat=10)))
    below = (signs * np.arange(1, 11)).cumsum(axis=1)
    crossed = np.zeros(1024, dtype=bool)
    for number in looks.numbers:
        allowed = 0.05 / tests * number / 10
        with_one_more = crossed | (below[:, number - 1] <= looks.lower[number])
        crossed |= below[:, number - 1] < looks.lower[number]
        assert crossed.mean() <= allowed < with_one_more.mean()


def test_the_ends_are_walsh_averages_with_the_designs_number_outside() -> None:
    values = list(np.random.default_rng(3).normal(0.02, 0.01, 12))
    looks = plan_looks(12, 3)
    averages = sorted((values[i] + values[j]) / 2 for i in range(12) for j in range(i, 12))
    interval = at_look(values, looks)
    assert (interval.lo, interval.hi) == (averages[looks.lower[12] - 1], averages[-looks.upper[12]])
    assert interval.value == pytest.approx((averages[38] + averages[39]) / 2)


SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Drawn]] = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "t of 2 degrees": lambda rng, shape: rng.standard_t(2, shape),
    "noise that grows tenfold": lambda rng, shape: rng.normal(0, 1, shape) * np.linspace(1, 10, shape[1]),
    "noise that explodes": lambda rng, shape: rng.normal(0, 1, shape) * np.exp(np.linspace(0, 20, shape[1])),
    "noise that shrinks": lambda rng, shape: rng.normal(0, 1, shape) * np.linspace(10, 1, shape[1]),
    "a burst": lambda rng, shape: rng.normal(0, 1, shape) * np.where(np.arange(shape[1]) % 20 < 5, 8, 1),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bound_that_is_true_is_crossed_in_at_most_five_percent_of_runs_whatever_the_noise_does(shape: str) -> None:
    """Independent of the product: the values, the signs and the count of the Walsh averages are numpy's."""
    trials, most, looks = 4000, 40, plan_looks(40, 1)
    values = SHAPES[shape](np.random.default_rng(20261128), (trials, most))
    crossed, below = np.zeros(trials, dtype=bool), np.zeros(trials, dtype=int)
    for index in range(most):
        below += ((values[:, : index + 1] + values[:, [index]]) <= 0).sum(axis=1)
        if index + 1 in looks.numbers:
            crossed |= below < looks.lower[index + 1]
    error = math.sqrt(0.05 * 0.95 / trials)  # 0.34%
    assert 0.015 < crossed.mean() <= 0.05 + 3 * error


def test_the_lower_ends_of_three_tests_share_the_error_rate_of_one() -> None:
    one, three = plan_looks(40, 1), plan_looks(40, 3)
    assert all(three.lower[number] <= one.lower[number] for number in one.numbers)
    assert three.upper == one.upper == one.lower


def pair(shift: float) -> LaunchPair:
    """A launch pair whose requests of B take exp(shift) times as long."""
    return LaunchPair([Round([0.05] * 5, [3] * 5)] * 20, [Round([0.05 * math.exp(shift)] * 5, [3] * 5)] * 20)


def run(
    shifts: Iterator[float], *, plan: LaunchPlan | None = None, pair_s: float = 1.0
) -> tuple[LaunchSequence, list[str]]:
    """A sequence of launch pairs with these shifts, each of which takes `pair_s`; what was said."""
    clock, said = [0.0], list[str]()

    def launch(number: int, goes_on: Callable[[float], bool]) -> LaunchPair:
        clock[0] += pair_s
        return pair(next(shifts))

    return measure(launch, plan or LaunchPlan(), MARGINS, said.append, lambda: clock[0]), said


def normal(mean: float, deviation: float) -> Iterator[float]:
    rng = np.random.default_rng(2)
    while True:
        yield rng.normal(mean, deviation)


def test_a_run_goes_on_until_a_look_decides() -> None:
    made, _ = run(normal(0.0, 0.02))
    assert (made.outcome, made.stop) == ("pass", "decided")
    assert made.launch_pairs in range(8, 30, 2)


def test_a_run_without_a_decision_ends_at_the_most_launch_pairs() -> None:
    made, _ = run(normal(math.log(1.028), 0.02), plan=LaunchPlan(max_pairs=20))
    assert (made.outcome, made.stop, made.launch_pairs, made.most) == ("inconclusive", "max_pairs", 20, 20)


def test_the_times_of_the_first_launch_pairs_set_the_number_of_the_last_look() -> None:
    plan = LaunchPlan(minutes=10)
    made, said = run(normal(math.log(1.028), 0.02), plan=plan, pair_s=60.0)
    assert (made.stop, made.launch_pairs, made.most) == ("minutes", 10, 10)
    assert said[0].startswith("a launch pair takes 60 s; at most 10 are made in 10 minutes (10 min)")


def test_a_run_gives_up_after_two_where_six_launch_pairs_do_not_fit_into_the_time() -> None:
    made, said = run(normal(0.0, 0.02), plan=LaunchPlan(minutes=5), pair_s=70.0)
    assert (made.outcome, made.stop, made.launch_pairs) == ("inconclusive", "minutes", 2)
    assert said[0].startswith("a launch pair takes 70 s; at most 4 are made in 5 minutes")


def test_a_slow_first_launch_pair_does_not_set_the_pace_of_the_others() -> None:
    clock = [0.0]

    def launch(number: int, goes_on: Callable[[float], bool]) -> LaunchPair:
        clock[0] += 100.0 if number == 1 else 10.0
        return pair(0.0)

    made = measure(launch, LaunchPlan(minutes=5), MARGINS, lambda _: None, lambda: clock[0])
    assert (made.outcome, made.most) == ("pass", 20)  # 200 s are left for the 20th and those before it
    clock[0] = 0.0
    assert measure(launch, LaunchPlan(minutes=1.5), MARGINS, lambda _: None, lambda: clock[0]).launch_pairs == 1


def test_a_run_ends_early_when_launch_pairs_become_so_slow_that_the_next_look_does_not_fit() -> None:
    clock = [0.0]

    def launch(number: int, goes_on: Callable[[float], bool]) -> LaunchPair:
        clock[0] += 10.0 if number < 9 else 500.0
        return pair(math.log(1.03) + (-1) ** number * 0.001 * number)

    made = measure(launch, LaunchPlan(minutes=30), MARGINS, lambda _: None, lambda: clock[0])
    assert (made.stop, made.launch_pairs) == ("minutes", 10)


def test_a_machine_whose_launches_vary_hopelessly_is_given_up_after_the_first_look() -> None:
    made, _ = run(normal(0.0, 0.5))
    assert (made.outcome, made.stop) == ("inconclusive", "futile")
    assert made.launch_pairs in range(6, 20, 2)


def test_a_machine_whose_rounds_vary_hopelessly_is_given_up_after_the_first_launch_pair() -> None:
    rng = np.random.default_rng(1)

    def launch(number: int, goes_on: Callable[[float], bool]) -> LaunchPair:
        rounds = [list(0.05 * np.exp(rng.normal(shift, 0.01, 5))) for shift in np.tile([-4.0, 4.0], 10)]
        return LaunchPair([Round([0.05] * 5, [3] * 5)] * 20, [Round(times, [3] * 5) for times in rounds])

    made = measure(launch, LaunchPlan(), MARGINS, lambda _: None, lambda: 0.0)
    assert (made.outcome, made.stop, made.launch_pairs) == ("inconclusive", "futile", 1)


def test_the_forecast_after_six_launch_pairs_names_the_spread_and_what_a_pass_needs() -> None:
    _, said = run(normal(0.0, 0.02))
    assert said[1].startswith("launch pairs vary by p50 ")
    assert ": if B is as fast as A, a pass needs about " in said[1] and "; 100 show a slowdown of p50 " in said[1]


@pytest.mark.parametrize(("deviation", "expected"), [(0.01, 8), (0.02, 12), (0.05, 36)])
def test_the_forecast_of_a_pass_is_what_runs_need_in_four_of_five_cases(deviation: float, expected: int) -> None:
    """Independent of the product: normal launch pairs, and the first look at which the upper end is below the bound."""
    looks = plan_looks(80, 3)
    seen = list(np.quantile(np.random.default_rng(5).normal(0, deviation, 100_000), np.linspace(0.02, 0.98, 41)))
    finding = MetricFinding("p50", 0.03, None, seen, at_look(seen, looks))
    needed = forecast({"p50": finding}, looks)["p50"].for_pass
    assert needed == expected
    values = np.random.default_rng(6).normal(0, deviation, (600, 80)) - math.log(1.03)
    passed, above = np.zeros(600, dtype=bool), np.zeros(600, dtype=int)
    for index in range(needed or 0):
        above += ((values[:, : index + 1] + values[:, [index]]) >= 0).sum(axis=1)
        if index + 1 in looks.numbers:
            passed |= above < looks.upper[index + 1]
    assert passed.mean() > 0.75


def test_the_spread_of_launch_pairs_ignores_a_few_wild_ones() -> None:
    values = [*np.linspace(-0.03, 0.03, 30), 0.9]
    assert scale(values) < 0.1 and scale([0.0, 0.0, 0.0, 1.0]) == pytest.approx(0.25)
    assert scale([0.1]) == 0.0


def test_a_run_is_futile_only_if_neither_verdict_is_within_twice_the_launch_pairs() -> None:
    hopeless, near = MetricForecast(0.5, None, 900, None), MetricForecast(0.05, 150, 900, 0.1)
    assert is_futile({"p50": hopeless}, 80)
    assert not is_futile({"p50": near}, 80)
    assert not is_futile({"p50": MetricForecast(0.05, None, 100, 0.1)}, 80)
    assert not is_futile({}, 80)


def test_what_it_would_take_to_know_more_is_a_command_or_says_that_no_run_can() -> None:
    told = more({"p50": 120}, made=80, pair_s=10.0)
    assert told == "to know more of p50: about 120 launch pairs (20 min): --fresh --max-pairs 120 --minutes 24"
    assert "more than 200 launch pairs would be needed" in more({"p50": 900, "p95": 10}, made=80, pair_s=10.0)
    assert "more than 200 launch pairs would be needed" in more({"p50": None}, made=80, pair_s=10.0)
    assert more({}, made=80, pair_s=10.0) == ""


def test_within_a_minute_a_slow_first_launch_pair_is_announced_with_what_it_takes_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sequence, "FIRST_WORD_S", 0.05)
    clock, said = [0.0], list[str]()

    def launch(number: int, goes_on: Callable[[float], bool]) -> LaunchPair | None:
        clock[0] += 10.0
        goes_on(0.0)  # both have loaded
        clock[0] += 40.0  # within the first of turns with 10 of 240 requests
        while not said:
            time.sleep(0.01)
        return None

    measure(launch, LaunchPlan(), MARGINS, said.append, lambda: clock[0])
    assert said[0].startswith(
        "the first launch pair takes more than 16 min: 30 minutes allow at most 1, and a verdict needs 6: "
        "it cannot be known"
    )
    assert slow_line(LaunchPlan(minutes=5), 50.0).startswith(
        "the first launch pair takes more than 50 s: 5 minutes allow at most 6"
    )


def test_a_first_launch_pair_that_would_take_too_long_is_not_finished() -> None:
    clock, said, asked = [0.0], list[str](), list[float]()

    def launch(number: int, goes_on: Callable[[float], bool]) -> LaunchPair | None:
        clock[0] += 10.0  # both load
        goes_on(0.0)
        for done in range(1, 101):
            clock[0] += 7.0
            asked.append(clock[0])
            if not goes_on(done / 100):
                return None
        raise AssertionError("expected to be told to stop")

    made = measure(launch, LaunchPlan(), MARGINS, said.append, lambda: clock[0])
    assert (made.outcome, made.stop, made.launch_pairs, made.pair_s) == ("inconclusive", "minutes", 0, 710.0)
    assert asked[-1] == 24.0  # the first turn that ends after 20 s
    assert said[0].startswith(
        "a launch pair would take 12 min, and a verdict needs at least 6: it cannot be known in 30 minutes, "
        "but perhaps in 86 (--fresh --minutes 86)"
    )
    assert {finding.reason for finding in made.findings.values()} == {"no launch pair was finished"}


def test_other_work_on_the_machine_is_said_beside_the_pace() -> None:
    assert busy(1.9, 2) == ""
    assert busy(9.8, 2) == "; the machine is busy (load average 9.8 on 2 cores), so times vary more"


@pytest.mark.parametrize(
    ("turns", "steady"),
    [
        ([[1.0, 1.0, 1.0]], False),  # one turn tells nothing
        ([[2.0, 2.0, 2.0], [1.0, 1.0, 9.0]], False),
        ([[1.0, 3.0, 5.0], [1.02, 3.06, 50.0]], True),  # the median request, 2% slower
        ([[9.0, 9.0], [1.0, 1.0], [1.0, 1.0]], True),
    ],
)
def test_a_launch_is_warm_when_the_median_request_took_as_long_as_before(
    turns: list[list[float]], steady: bool
) -> None:
    assert warmup.is_steady(turns) is steady


def test_a_launch_that_never_became_steady_is_marked() -> None:
    turns = [[2.0**-number] for number in range(6)]
    assert warmup.unsteady(turns) == ["its times still changed by 50% in warm-up turn 6"]
    assert warmup.unsteady(turns[:3]) == []


def test_a_design_without_ends_shows_no_distance() -> None:
    assert detectable(plan_looks(4, 1)) == ({4: math.inf}, {4: math.inf})
