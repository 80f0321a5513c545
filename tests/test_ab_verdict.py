"""The gate: margins, missing percentiles, the numbers of a launch pair, and its verdicts."""

import math
from collections.abc import Mapping

import pytest

from harness.ab import verdict
from harness.ab.margins import MARGINS
from harness.ab.records import Launch, LaunchPair, Metric, MetricFinding, Round
from harness.ab.verdict import conclude, red, slowdowns

SPREAD = (-0.012, 0.004, -0.007, 0.011, -0.002, 0.008, -0.010, 0.003, 0.006, -0.005)  # one per launch, logarithms


def launch(seconds: float, *, rounds: int = 4, queries: int = 25) -> Launch:
    """A launch whose queries all take `seconds`: the ratio of every metric is the ratio of the seconds."""
    return [Round([seconds] * queries, [30] * queries)] * rounds


def judge(
    made: list[LaunchPair], margins: Mapping[Metric, float], *, most: int | None = None
) -> dict[Metric, MetricFinding]:
    """The findings of a run that was planned for these launch pairs, if not for `most`."""
    return verdict.judge([slowdowns(pair, margins) for pair in made], margins, most=most or len(made))


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
    assert conclude(judge(launch_pairs(0.0), MARGINS)) == "pass"


def test_a_faster_engine_passes() -> None:
    assert conclude(judge(launch_pairs(-0.2), MARGINS)) == "pass"


def test_an_interval_that_contains_the_margin_is_inconclusive() -> None:
    findings = judge(launch_pairs(0.02), {"p50": 0.02})
    assert conclude(findings) == "inconclusive"
    assert findings["p50"].reason == "the interval contains the margin"


def test_a_slowdown_within_the_margin_passes_although_it_is_certain() -> None:
    finding = judge(launch_pairs(0.02), {"p50": 0.05})["p50"]
    assert finding.outcome == "pass"
    assert finding.interval is not None and finding.interval.lo is not None and finding.interval.lo > 0


def test_one_undecided_metric_keeps_the_run_from_passing() -> None:
    assert conclude(judge(launch_pairs(0.02), {"p50": 0.02, "p95": 0.5})) == "inconclusive"


def test_lower_throughput_is_a_slowdown_in_time_per_pair() -> None:
    a, b = [Round([1.0, 1.0], [10, 20])], [Round([1.0, 2.0], [10, 20])]  # 15 and 10 pairs/s
    finding = judge([LaunchPair(a, b)] * 6, {"throughput": 0.02})["throughput"]
    assert finding.interval is not None and math.exp(finding.interval.value) == pytest.approx(1.5)


def test_one_disturbed_turn_does_not_move_p50_and_does_move_throughput() -> None:
    calm, disturbed = Round([0.05] * 25, [30] * 25), Round([0.50] * 25, [30] * 25)
    findings = judge([LaunchPair([calm] * 4, [calm, disturbed, calm, calm])] * 6, {"p50": 0.03, "throughput": 0.02})
    assert findings["p50"].slowdowns == [0.0] * 6
    # 3 rounds at 1 and one at 10: 13/4
    assert math.exp(findings["throughput"].slowdowns[0]) == pytest.approx(3.25)


def test_p50_compares_the_times_of_the_same_request_in_adjacent_turns() -> None:
    a = [Round([1.0, 2.0, 9.0], [3] * 3), Round([4.0, 5.0, 6.0], [3] * 3)]
    b = [Round([1.1, 2.2, 9.9], [3] * 3), Round([4.4, 50.0, 60.0], [3] * 3)]
    # Four of six requests take 1.1 times as long. The ratio of the percentiles of each side would be 4.4 to 4.
    finding = judge([LaunchPair(a, b)], {"p50": 0.03})["p50"]
    assert [math.exp(value) for value in finding.slowdowns] == [pytest.approx(1.1)]


@pytest.mark.parametrize(
    ("metric", "queries", "rank"),
    [("p95", 100, 95), ("p99", 300, 297)],
)
def test_tails_are_nearest_ranks_over_all_queries_of_a_launch(metric: Metric, queries: int, rank: int) -> None:
    times = [float(second) for second in range(1, queries + 1)]
    a, b = [Round(times, [1] * queries)], [Round([1.0] * queries, [1] * queries)]
    assert judge([LaunchPair(b, a)], {metric: 0.0})[metric].slowdowns == [pytest.approx(math.log(rank))]


def test_a_percentile_without_enough_queries_is_not_measured_and_states_the_number_needed() -> None:
    finding = judge(launch_pairs(0.0), MARGINS)["p99"]
    assert (finding.outcome, finding.interval) == (None, None)
    assert finding.reason == "needs 299 queries per launch; there are 100"


def test_with_enough_queries_p99_is_measured() -> None:
    assert judge(launch_pairs(0.0, queries=75), MARGINS)["p99"].outcome == "pass"


def test_six_launch_pairs_can_show_a_regression_on_three_metrics_and_not_on_four() -> None:
    # All signs agree with probability 1/64. Three metrics share 5%: 1/64 < 1.67%. Four: 1/64 > 1.25%.
    three: dict[Metric, float] = {"p50": 0.03, "p95": 0.05, "throughput": 0.02}
    assert red(judge(launch_pairs(0.2, number=6), three)) == ["p50", "p95", "throughput"]
    four = judge(launch_pairs(1.0, number=6, queries=75), MARGINS)
    assert red(four) == []
    assert {finding.outcome for finding in four.values()} == {"inconclusive"}


def test_metrics_that_are_not_measured_take_no_share_of_the_error_rate() -> None:
    findings = judge(launch_pairs(0.2, number=6), {"p50": 0.03, "p95": 0.05, "p99": 0.1, "throughput": 0.02})
    assert red(findings) == ["p50", "p95", "throughput"]


def test_a_number_of_launch_pairs_that_is_no_look_decides_nothing() -> None:
    finding = judge(launch_pairs(1.0, number=7), {"p50": 0.03}, most=80)["p50"]
    assert (finding.outcome, finding.reason) == ("inconclusive", "too few launch pairs for an interval")
    assert finding.interval is not None and (finding.interval.lo, finding.interval.hi) == (None, None)


def test_one_metric_beyond_its_margin_is_enough_for_a_regression() -> None:
    assert conclude(judge(launch_pairs(0.10), {"p50": 0.03, "p95": 0.5})) == "regression"


def test_a_run_without_a_measured_metric_does_not_pass() -> None:
    assert conclude(judge(launch_pairs(0.0), {"p99": 0.1})) == "inconclusive"
