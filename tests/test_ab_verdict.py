"""The gate: margins, Holm, confirmation, missing percentiles, and its verdicts on simulated engines."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from harness.ab.margins import MARGINS
from harness.ab.records import METRICS, AbVerdict, Launch, LaunchPair, Metric, Round
from harness.ab.verdict import conclude, judge, red

SPREAD = (-0.012, 0.004, -0.007, 0.011, -0.002, 0.008, -0.010, 0.003, 0.006, -0.005)  # one per launch, logarithms


def launch(seconds: float, *, rounds: int = 4, queries: int = 25) -> Launch:
    """A launch whose queries all take `seconds`: the ratio of every metric is the ratio of the seconds."""
    return [Round([seconds] * queries, [30] * queries)] * rounds


def launch_pairs(slower: float, *, number: int = 10, queries: int = 25) -> list[LaunchPair]:
    return [
        LaunchPair(
            launch(0.05, queries=queries), launch(0.05 * (1 + slower) * math.exp(SPREAD[index]), queries=queries)
        )
        for index in range(number)
    ]


def test_an_engine_far_slower_than_the_margin_is_a_regression() -> None:
    findings = judge(launch_pairs(0.10), {"p50": 0.03, "throughput": 0.02})
    assert red(findings) == ["p50", "throughput"]


def test_an_equal_engine_passes() -> None:
    verdict = conclude(judge(launch_pairs(0.0), MARGINS))
    assert (verdict.outcome, verdict.confirmation) == ("pass", None)


def test_a_faster_engine_passes() -> None:
    assert conclude(judge(launch_pairs(-0.2), MARGINS)).outcome == "pass"


def test_an_interval_that_contains_the_margin_is_inconclusive() -> None:
    verdict = conclude(judge(launch_pairs(0.02), {"p50": 0.02}))
    assert verdict.outcome == "inconclusive"
    assert "more launches" in verdict.findings["p50"].reason


def test_a_slowdown_within_the_margin_passes_although_it_is_certain() -> None:
    finding = judge(launch_pairs(0.02), {"p50": 0.05})["p50"]
    assert finding.outcome == "pass"
    assert finding.shift is not None and finding.shift.lo is not None and finding.shift.lo > 0


def test_one_undecided_metric_keeps_the_run_from_passing() -> None:
    assert conclude(judge(launch_pairs(0.02), {"p50": 0.02, "p95": 0.5})).outcome == "inconclusive"


def test_lower_throughput_is_a_slowdown_in_time_per_pair() -> None:
    a, b = [Round([1.0, 1.0], [10, 20])], [Round([1.0, 2.0], [10, 20])]  # 15 and 10 pairs/s
    finding = judge([LaunchPair(a, b)] * 6, {"throughput": 0.02})["throughput"]
    assert finding.shift is not None and math.exp(finding.shift.value) == pytest.approx(1.5)


def test_one_disturbed_turn_does_not_move_p50_and_does_move_throughput() -> None:
    calm, disturbed = Round([0.05] * 25, [30] * 25), Round([0.50] * 25, [30] * 25)
    findings = judge([LaunchPair([calm] * 4, [calm, disturbed, calm, calm])] * 6, {"p50": 0.03, "throughput": 0.02})
    assert findings["p50"].slowdowns == [0.0] * 6
    # 3 rounds at 1 and one at 10: 13/4
    assert math.exp(findings["throughput"].slowdowns[0]) == pytest.approx(3.25)


def test_p50_compares_adjacent_rounds() -> None:
    fast, slow = Round([1.0] * 25, [3] * 25), Round([2.0] * 25, [3] * 25)
    findings = judge([LaunchPair([fast, fast, slow, slow], [fast, slow, slow, slow])], {"p50": 0.03})
    assert findings["p50"].slowdowns == [0.0]  # over all queries at once, p50 would be 1 s and 2 s


@pytest.mark.parametrize(
    ("metric", "rank"),
    [("p95", 95), ("p50", 13)],  # nearest ranks: 100 queries of a launch, 25 of a round
)
def test_percentiles_are_nearest_ranks(metric: Metric, rank: int) -> None:
    times = [float(second) for second in range(1, 26 if metric == "p50" else 101)]
    a, b = [Round(times, [1] * len(times))], [Round([1.0] * len(times), [1] * len(times))]
    assert judge([LaunchPair(b, a)], {metric: 0.0})[metric].slowdowns == [pytest.approx(math.log(rank))]


def test_a_percentile_without_enough_queries_is_not_measured_and_states_the_number_needed() -> None:
    finding = judge(launch_pairs(0.0), MARGINS)["p99"]
    assert (finding.outcome, finding.shift, finding.p_holm) == (None, None, None)
    assert finding.reason == "needs 299 queries per launch; there are 100"


def test_with_enough_queries_p99_is_measured() -> None:
    assert judge(launch_pairs(0.0, queries=75), MARGINS)["p99"].outcome == "pass"


def test_holm_counts_the_metrics_that_are_measured() -> None:
    findings = judge(launch_pairs(0.2, number=6), {"p50": 0.03, "p95": 0.05, "p99": 0.1, "throughput": 0.02})
    assert findings["p50"].p_holm == pytest.approx(3 / 64)  # all three have p = 1/64
    assert red(findings) == ["p50", "p95", "throughput"]


def test_six_launch_pairs_cannot_show_a_regression_on_four_metrics() -> None:
    findings = judge(launch_pairs(1.0, number=6, queries=75), MARGINS)
    assert red(findings) == []
    assert {finding.outcome for finding in findings.values()} == {"inconclusive"}
    assert "Holm" in findings["p50"].reason


def test_four_launch_pairs_decide_nothing_and_the_reason_names_the_number_needed() -> None:
    finding = judge(launch_pairs(1.0, number=4), {"p50": 0.03})["p50"]
    assert finding.outcome == "inconclusive"
    assert finding.reason == "too few launches for an interval; 5 pairs can decide"


def test_a_red_set_is_a_regression_only_when_a_second_set_is_red_too() -> None:
    first = judge(launch_pairs(0.10), MARGINS)
    again, quiet = (judge(launch_pairs(slower), {"p50": 0.03}) for slower in (0.10, 0.0))
    assert (conclude(first, again).outcome, conclude(first, again).confirmation) == ("regression", again)
    assert (conclude(first, quiet).outcome, conclude(first, quiet).confirmation) == ("inconclusive", quiet)
    with pytest.raises(ValueError, match="second"):
        conclude(first)


def test_a_run_without_a_measured_metric_does_not_pass() -> None:
    assert conclude(judge(launch_pairs(0.0), {"p99": 0.1})).outcome == "inconclusive"


# The simulated machine: queries take 50 ms and drift with an autocorrelation time of 60 s. Every process has a constant
# offset. Every query has noise, and one query in a hundred takes three times as long.
QUERY_S, DRIFT, TAU_S, OFFSET, NOISE, SPIKES, SPIKE = 0.05, 0.05, 60.0, 0.015, 0.03, 0.01, 3.0
LOADING_QUERIES = 200  # the time between launch pairs, in queries
TRIALS = 300


def simulated(rng: np.random.Generator, slower: float, *, number: int = 10) -> list[LaunchPair]:
    memory = math.exp(-QUERY_S / TAU_S)
    shocks = rng.normal(0, DRIFT * math.sqrt(1 - memory**2), number * (LOADING_QUERIES + 200))
    drift, _ = lfilter([1], [1, -memory], shocks, zi=[memory * rng.normal(0, DRIFT)])
    turns = drift.reshape(number, -1)[:, LOADING_QUERIES:].reshape(number, 8, 25)
    turns = QUERY_S * np.exp(turns + rng.normal(0, NOISE, turns.shape))
    turns[rng.random(turns.shape) < SPIKES] *= SPIKE
    launch_pairs = []
    for index in range(number):
        factor = {"A": math.exp(rng.normal(0, OFFSET)), "B": (1 + slower) * math.exp(rng.normal(0, OFFSET))}
        arms = "ABBAABBA" if index % 2 == 0 else "BAABBAAB"
        rounds: dict[str, list[Round]] = {"A": [], "B": []}
        for arm, times in zip(arms, turns[index], strict=True):
            rounds[arm].append(Round(list(times * factor[arm]), [30] * 25))
        launch_pairs.append(LaunchPair(rounds["A"], rounds["B"]))
    return launch_pairs


def trial(rng: np.random.Generator, margins: Mapping[Metric, float], slower: float) -> tuple[AbVerdict, bool]:
    """The verdict, and whether the first set alone was red."""
    first = judge(simulated(rng, slower), margins)
    if not red(first):
        return conclude(first), False
    second = judge(simulated(rng, slower), {metric: margins[metric] for metric in red(first)})
    return conclude(first, second), True


def shares(margins: Mapping[Metric, float], slower: float) -> tuple[float, float]:
    """Shares of trials in which the first set is red, and in which the verdict is a regression."""
    rng = np.random.default_rng(20261124)
    trials = [trial(rng, margins, slower) for _ in range(TRIALS)]
    return sum(alarm for _, alarm in trials) / TRIALS, sum(v.outcome == "regression" for v, _ in trials) / TRIALS


def test_a_test_over_pooled_queries_would_raise_far_more_alarms_on_the_same_machine() -> None:
    rng, alarms = np.random.default_rng(20261124), 0
    for _ in range(100):
        both = simulated(rng, 0.0, number=1)[0]
        a, b = ([second for block in side for second in block.service_s] for side in both)
        alarms += stats.mannwhitneyu(b, a, alternative="greater").pvalue <= 0.05
    assert alarms > 20


def test_false_alarms_stay_below_five_percent_on_a_drifting_machine_without_a_margin() -> None:
    alarms, regressions = shares(dict.fromkeys(METRICS, 0.0), 0.0)
    assert 0 < alarms <= 0.05  # no alarm at all would mean a blind gate
    assert regressions <= 0.0025 + 1 / TRIALS


def test_with_the_shipped_margins_equal_engines_raise_no_alarm() -> None:
    alarms, _ = shares(MARGINS, 0.0)
    assert alarms <= 0.01


def test_a_slowdown_of_five_percent_is_detected_and_confirmed_with_a_margin_of_one_percent() -> None:
    _, regressions = shares(dict.fromkeys(METRICS, 0.01), 0.05)
    assert regressions >= 0.95


def test_a_slowdown_of_seven_percent_is_detected_with_the_shipped_margins() -> None:
    _, regressions = shares(MARGINS, 0.07)
    assert regressions >= 0.95
