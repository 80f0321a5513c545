"""A measurement is valid unless an observation contradicts it; every cause names the observation."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.latency.load import Timing
from harness.latency.recording import Recording
from harness.latency.summary import summarise
from harness.latency.validity import _drift
from tests import recordings
from tests.recordings import GPU, QUIET


def timings(count: int = 100, *, late_s: float = 0.0, late: int = 0, failed: int = 0) -> list[Timing]:
    """Requests of 90 to 110 ms, ten per second, with neighbours on opposite sides of the middle."""
    made = []
    for number in range(count):
        took_s = 0.1 + (0.01 if number % 2 else -0.01) * number / count
        sent_s = number / 10 + (late_s if number < late else 0.0)
        error = "the server answered 503" if number < failed else None
        made.append(Timing(f"q{number}", number / 10, sent_s, sent_s + took_s, 10, 500, error))
    return made


def recording(
    made: list[Timing] | None = None,
    *,
    header: Mapping[str, Any] | None = None,
    end: Mapping[str, Any] | None = None,
    telemetry: Mapping[str, Any] | None = None,
) -> Recording:
    made = timings() if made is None else made
    whole = recordings.header(**{"settings": {"queries": len(made) or 1}, **(header or {})})
    ending = {"after": {**QUIET, "own_s": 11.0, "busy_s": 110.0}, "telemetry": telemetry or {}, **(end or {})}
    return Recording(whole, tuple(made), recordings.end(**ending))


def causes(recorded: Recording) -> tuple[str, ...]:
    summary = summarise(recorded)
    assert (summary.verdict == "VALID") == (not summary.causes)
    return summary.causes


def test_a_quiet_measurement_is_valid() -> None:
    summary = summarise(recording())
    assert (summary.verdict, summary.causes, summary.unchecked) == ("VALID", (), ())


def test_figures_are_computed_from_the_raw_timings() -> None:
    made = [Timing(f"q{n}", n * 1.0, n + 0.25, n + 0.75 + n / 100, 10, 30) for n in range(40)]
    summary = summarise(recording(made))
    assert summary.duration_s == pytest.approx(39 + 0.75 + 0.39)  # from 0, when the first is due, to the last answer
    assert summary.pairs_per_s == pytest.approx(400 / 40.14)
    assert summary.tokens_per_s == pytest.approx(1200 / 40.14)
    stream = summarise(recording(made, header={"scenario": "single-stream"}))
    assert stream.duration_s == pytest.approx(40 * 0.5 + 7.8)  # 0 + 1 + ... + 39 = 780 hundredths


def test_response_is_measured_from_the_schedule_and_service_from_the_send() -> None:
    made = [Timing(f"q{n}", n * 1.0, n + 0.25, n + 0.75, 10, 30) for n in range(40)]
    summary = summarise(recording(made))
    assert (summary.response["p50"].estimate, summary.service["p50"].estimate) == (0.75, 0.5)
    assert summary.delay["p50"].estimate == 0.25


def test_a_token_total_covers_the_whole_measurement() -> None:
    made = [Timing(f"q{n}", n * 1.0, n * 1.0, n + 1.0, 10, None) for n in range(40)]
    assert summarise(recording(made, end={"counts": {"tokens": 4000}})).tokens_per_s == 100
    assert summarise(recording(made)).tokens_per_s is None  # missing, not zero


def test_a_measurement_without_an_end_is_incomplete_and_has_no_objective() -> None:
    header = {"settings": {"queries": 150, "slo_ms": 100.0, "min_duration_s": 5.0}}
    whole = recording(header=header)
    summary = summarise(Recording(whole.header, whole.timings, None))
    assert (summary.verdict, summary.objective) == ("INCOMPLETE", None)
    assert summary.causes == ("killed after 100 of 150 answers; it cannot be resumed: measure again",)


def test_more_than_one_error_in_a_thousand_invalidates_and_errors_are_in_no_percentile() -> None:
    summary = summarise(recording(timings(1000, failed=2)))
    assert summary.causes == ("2 of 1000 requests failed (limit 0.1%); the first: the server answered 503",)
    assert (summary.response["p50"].n, summary.errors) == (998, 2)
    assert causes(recording(timings(1000, failed=1))) == ()


def test_too_many_retries_invalidate_a_measurement_even_if_they_were_answered() -> None:
    (cause,) = causes(recording(timings(1000), end={"counts": {"retries": 2}}))
    assert cause.startswith("the engine repeated 2 failed requests (limit 0.1%")
    assert causes(recording(timings(1000), end={"counts": {"retries": 1}})) == ()


def test_a_request_that_waited_for_its_turn_invalidates_a_measurement() -> None:
    assert causes(recording(timings(1000), end={"counts": {"paced": 1}})) == (
        "1 requests waited under requests_per_minute: leave it out to measure the server",
    )
    assert causes(recording(timings(1000), end={"counts": {"paced": 0}})) == ()


def test_too_few_samples_for_a_p90_invalidate_a_measurement() -> None:
    header = {"settings": {"queries": 28, "slo_ms": None, "min_duration_s": 0.0}}
    assert causes(recording(timings(28), header=header)) == (
        "too few samples for p90: 28 effective of 28 samples, 29 needed",
    )
    assert causes(recording(timings(29), header=header)) == ()


def test_a_short_measurement_is_invalid() -> None:
    (cause,) = causes(recording(timings(40)))
    assert cause == "too short: 4.0 s of at least 5 s; raise latency.queries"


@pytest.mark.parametrize(("late", "valid"), [(1, True), (2, False)])  # a p99 allows one of 100
def test_a_load_generator_behind_schedule_invalidates_a_measurement(late: int, *, valid: bool) -> None:
    reasons = causes(recording(timings(late_s=0.02, late=late)))  # the bound is 5% of a p50 of 0.1 s
    assert (reasons == ()) is valid
    if not valid:
        assert reasons[0].startswith(
            "load generator behind schedule: 2.0% of the requests were sent more than 5.0 ms late"
        )


def test_the_bound_on_the_delay_is_at_least_the_resolution_of_a_timer() -> None:
    made = [replace(timing, sent_s=timing.scheduled_s + 0.0009) for timing in timings()]
    quick = [replace(timing, done_s=timing.sent_s + timing.service_s / 100) for timing in made]
    assert causes(recording(quick)) == ()  # 0.9 ms late; 5% of the p50 would be 0.1 ms


def test_other_load_invalidates_a_measurement_of_an_engine_on_this_machine() -> None:
    end = {"others_cores": 0.21}
    (cause,) = causes(recording(end=end))
    assert cause.startswith("other load on the machine: other programs kept 0.21 of 2 cores busy (limit 0.2)")
    assert causes(recording(end={"others_cores": 0.19})) == ()
    idle = {"after": QUIET, **end}
    assert causes(recording(header={"concurrent": True}, end=idle)) == ()  # the server may run here or elsewhere


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"cpu_limited_s": 0.5}, "the container's CPU limit stopped it for 0.5 of 10.0 s"),
        ({"heat_events": 3}, "a core slowed down because of heat"),
    ],
)
def test_cpu_limits_and_heat_invalidate_a_measurement(after: Mapping[str, Any], message: str) -> None:
    assert causes(recording(end={"after": {**QUIET, **after}})) == (message,)


@pytest.mark.parametrize(("second", "valid"), [(2900.0, True), (2800.0, False), (3200.0, False)])
def test_a_changed_cpu_clock_invalidates_a_measurement(second: float, *, valid: bool) -> None:
    assert (causes(recording(telemetry={"cpu_mhz": [3000.0, second]})) == ()) is valid


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ({"slowed_by": ["power cap"]}, "H100 slowed down: power cap"),
        ({"sm_variation": 0.031}, "the clock of H100 varied by 3.1% (limit 2%)"),
    ],
)
def test_a_slowed_gpu_invalidates_a_measurement_of_an_engine_on_it(seen: Mapping[str, Any], message: str) -> None:
    telemetry = {"gpus": [{**GPU, **seen}]}
    assert causes(recording(header={"description": {"device": "cuda"}}, telemetry=telemetry)) == (message,)
    assert causes(recording(header={"description": {"device": "cpu"}}, telemetry=telemetry)) == ()


def test_unreadable_conditions_are_listed_and_do_not_invalidate() -> None:
    blind = {**QUIET, "busy_s": None, "cpu_limited_s": None, "heat_events": None}
    recorded = recording(
        header={"before": blind, "description": {"device": "cuda"}},
        end={"after": blind, "others_cores": None},
        telemetry={"cpu_mhz": None},
    )
    summary = summarise(recorded)
    assert summary.verdict == "VALID"
    assert summary.unchecked == ("other load", "CPU limit", "heat", "CPU clock", "GPU")
    assert summarise(recording(header={"concurrent": True}, end={"after": QUIET})).unchecked == (
        "the server's machine",
    )


@pytest.mark.parametrize(("slo_ms", "verdict"), [(200.0, "pass"), (100.0, "fail")])
def test_the_objective_of_a_server_is_judged_from_the_schedule(slo_ms: float, verdict: str) -> None:
    header = {"settings": {"queries": 1000, "slo_ms": slo_ms, "min_duration_s": 5.0}}
    result = summarise(recording(timings(1000, failed=1), header=header)).objective
    assert result is not None and result.verdict == verdict
    assert result.over == (1 if verdict == "pass" else 501)  # a failed request counts as slow
    stream = {**header, "scenario": "single-stream"}
    assert summarise(recording(timings(1000), header=stream)).objective is None


def test_offline_has_throughput_and_no_percentiles() -> None:
    summary = summarise(recording([Timing("", 0.0, 0.0, 20.0, 4000, 90_000)], header={"scenario": "offline"}))
    assert (summary.response, summary.service) == ({}, {})
    assert (summary.pairs_per_s, summary.tokens_per_s, summary.verdict) == (200.0, 4500.0, "VALID")


def test_a_measurement_without_answers_has_no_figures() -> None:
    summary = summarise(recording(timings(100, failed=100)))
    assert (summary.pairs_per_s, summary.tokens_per_s, summary.verdict) == (None, None, "INVALID")
    assert summary.response["p50"] == (None, None, None, None, 0, 0, "0 effective of 0 samples, 5 needed")
    assert summarise(recording([])).pairs_per_s is None


def simulated(seed: int, count: int, *, rho: float = 0.0, step: float = 1.0) -> list[Timing]:
    """A queue at load `rho`: service times of 100 ms with a spread of 30%, `step` times as long in the second half."""
    draw = np.random.default_rng(seed)
    took_s = 0.1 * np.exp(draw.normal(0, 0.3, count))
    took_s[count // 2 :] *= step
    due_s = np.cumsum(draw.exponential(0.1 * math.exp(0.045) / rho, count)) if rho else np.arange(count) * 10.0
    free_s, made = 0.0, []
    for number in range(count):
        free_s = max(free_s, due_s[number]) + took_s[number]
        made.append(Timing(f"q{number}", due_s[number], due_s[number], free_s, 10, 500))
    return made


def drifting(**how: Any) -> int:
    """The number of 100 simulated measurements that are reported to drift."""
    return sum("drifted" in " ".join(_drift(simulated(seed, **how))) for seed in range(100))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("count", [60, 200, 1000])
def test_at_most_two_in_a_hundred_steady_measurements_are_reported_to_drift(rho: float, count: int) -> None:
    assert drifting(count=count, rho=rho) <= 2


def test_a_drift_is_reported_only_above_the_noise_and_the_bound() -> None:
    assert drifting(count=1000, step=1.2) >= 95
    assert drifting(count=1000, step=1 / 1.2) >= 95  # faster: the warm-up was too short
    assert drifting(count=1000, step=1.02) <= 2  # within the bound
    assert drifting(count=60, step=1.1) <= 5  # hidden in the noise


def test_a_drift_invalidates_a_measurement_and_is_reported_with_both_levels() -> None:
    made = [
        replace(timing, done_s=timing.sent_s + timing.service_s * (2 if n >= 50 else 1))
        for n, timing in enumerate(timings())
    ]
    (cause,) = causes(recording(made))
    assert cause.startswith("times drifted: the p50 of the halves went from 100 ms to 190 ms")
    offline = recording([Timing("", 0.0, 0.0, 20.0, 4000, None)], header={"scenario": "offline"})
    assert causes(offline) == ()


def test_a_dead_load_process_is_the_first_cause_listed() -> None:
    reasons = causes(recording(timings(40), end={"died": ["load process 2 of 2 was killed by signal 9"]}))
    assert reasons[0] == "load process 2 of 2 was killed by signal 9" and reasons[1].startswith("too short")


@pytest.mark.parametrize(
    ("processes", "own_s", "message"),
    [
        (1, 8.9, None),  # 7.9 s more than before, within 10 s
        (1, 9.1, "load generator busy: it used 0.81 of 1 cores (limit 0.8)"),
        (2, 16.9, None),
        (2, 17.1, "load generator busy: it used 1.61 of 2 cores (limit 1.6)"),
        (4, 17.1, "load generator busy: it used 1.61 of 2 cores (limit 1.6)"),  # the machine has two cores
    ],
)
def test_a_busy_load_generator_invalidates_only_measurements_of_remote_engines(
    processes: int, own_s: float, message: str | None
) -> None:
    settings = {"queries": 100, "slo_ms": None, "min_duration_s": 5.0, "processes": processes}
    end = {"after": {**QUIET, "own_s": own_s}}
    reasons = causes(recording(header={"concurrent": True, "settings": settings}, end=end))
    assert [cause.partition(";")[0] for cause in reasons] == ([] if message is None else [message])
    assert causes(recording(header={"settings": settings}, end=end)) == ()  # the load comes from the engine


def test_a_load_generator_behind_schedule_is_reported_even_without_percentiles() -> None:
    """In an ever-growing queue all samples amount to one effective sample."""
    made = [Timing(f"q{n}", n * 0.01, n * 0.02, n * 0.02 + 0.02, 10, None) for n in range(1000)]
    summary = summarise(recording(made))
    assert summary.response["p50"].estimate is None
    assert any(cause.startswith("load generator behind schedule") for cause in summary.causes)
