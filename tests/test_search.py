"""The search for the largest rate finds the capacity of a server and claims only measured rates."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import Search
from harness.latency.load import Timing, schedule
from harness.latency.search import LEAST, Probe, SearchStep, SearchTerms, conclude, judged, search, sentence
from harness.latency.summary import summarise
from harness.outcome import Outcome
from tests.recordings import QUIET
from tests.test_latency_validity import recording

TERMS = SearchTerms(rate=8.0, queries=100, least_s=10.0, plan=Search(probes=60))


def capacity_of(capacity: float, seen: list[SearchStep] | None = None) -> Callable[[SearchStep], Probe]:
    def probe(step: SearchStep) -> Probe:
        if seen is not None:
            seen.append(step)
        return Probe(step.rate, step.queries, Outcome.PASS if step.rate <= capacity else Outcome.FAIL)

    return probe


def still() -> float:
    return 0.0


@given(capacity=st.floats(1e-3, 1e6), rate=st.floats(0.1, 1e3), width=st.floats(0.01, 1))
def test_the_capacity_lies_between_what_passed_and_what_failed(capacity: float, rate: float, width: float) -> None:
    seen: list[SearchStep] = []
    terms = TERMS._replace(rate=rate, plan=Search(width=width, probes=60))
    result = search(capacity_of(capacity, seen), terms, still)
    assert result.outcome == "pass" and result.rate is not None and result.above is not None
    assert result.rate <= capacity < result.above <= result.rate * (1 + width) * (1 + 1e-9)
    assert result.rate in [step.rate for step in seen]  # it was measured
    octaves, halvings = abs(math.log2(capacity / rate)), math.log2(math.log(2) / math.log(1 + width))
    assert len(seen) <= octaves + max(halvings, 0) + 4


@given(capacity=st.floats(1e-3, 1e6), most=st.integers(1, 8))
def test_a_stopped_search_claims_the_best_measured_rate(capacity: float, most: int) -> None:
    seen: list[SearchStep] = []
    result = search(capacity_of(capacity, seen), TERMS._replace(plan=Search(probes=most)), still)
    assert len(seen) <= most
    assert result.rate == max((step.rate for step in seen if step.rate <= capacity), default=None)
    if result.rate is None:
        assert result.outcome == "fail"
    elif result.outcome != "pass":
        assert (result.outcome, result.reason) == (
            "inconclusive",
            f"{len(seen)} measurements did not narrow it down to latency.search.width",
        )


def test_rates_double_until_one_fails_and_then_bracket_the_answer() -> None:
    seen: list[SearchStep] = []
    search(capacity_of(30.0, seen), TERMS, still)
    assert [round(step.rate, 2) for step in seen] == [8, 16, 32, 22.63, 26.91, 29.34, 30.64]  # 30.64 <= 1.05 * 29.34
    seen.clear()
    search(capacity_of(3.0, seen), TERMS, still)
    assert [step.rate for step in seen[:3]] == [8, 4, 2]


def test_no_further_rate_is_measured_after_the_time_limit() -> None:
    clock = iter([0.0, 10.0, 20.0, 31.0])
    seen: list[SearchStep] = []
    result = search(capacity_of(1e9, seen), TERMS._replace(plan=Search(seconds=30)), lambda: next(clock))
    assert [step.rate for step in seen] == [8, 16]
    assert (result.rate, result.above, result.outcome) == (16, None, "inconclusive")


def test_an_undecided_rate_gets_more_requests_and_does_not_pass_at_the_limit() -> None:
    first = TERMS.first(8.0)
    seen: list[SearchStep] = []

    def probe(step: SearchStep) -> Probe:
        seen.append(step)
        if step.rate <= 8:
            return Probe(*step, Outcome.PASS)
        return Probe(*step, Outcome.INCONCLUSIVE, wanted=3 * first if step.queries == first else 0, reason="not steady")

    result = search(probe, TERMS._replace(plan=Search(width=1.0)), still)
    assert [(step.rate, step.queries) for step in seen] == [
        (8, first),
        (16, first),
        (16, 3 * first),  # the number that would decide
        (16, 6 * first),  # twice as many
        (16, 8 * first),  # latency.search.longest
    ]
    assert (result.rate, result.above, result.outcome) == (8, 16, "inconclusive")
    assert result.reason == f"{8 * first:,} requests at 16/s are not enough: not steady"


def test_a_rate_that_passes_with_more_requests_passes() -> None:
    first = TERMS.first(8.0)

    def probe(step: SearchStep) -> Probe:
        return Probe(
            *step, Outcome.FAIL if step.rate > 8 else Outcome.INCONCLUSIVE if step.queries == first else Outcome.PASS
        )

    result = search(probe, TERMS._replace(plan=Search(width=1.0)), still)
    assert (result.rate, result.above, result.outcome) == (8, 16, "pass")


def test_an_invalid_measurement_stops_the_search_without_failing_the_server() -> None:
    def probe(step: SearchStep) -> Probe:
        return (
            Probe(*step, Outcome.PASS)
            if step.rate <= 8
            else Probe(*step, Outcome.INVALID, reason="generator behind schedule")
        )

    result = search(probe, TERMS, still)
    assert (result.rate, result.above, result.outcome) == (8, None, "invalid")
    assert result.reason == "the measurement at 16/s is invalid: generator behind schedule"


def test_a_probe_has_enough_requests_to_pass_and_to_last_long_enough() -> None:
    assert LEAST == 662
    assert [TERMS.first(rate) for rate in (1, 100)] == [794, 1200]  # 1.2 * 662; 1.2 * 100/s * 10 s
    assert TERMS._replace(queries=5000).first(1) == 5000


@pytest.mark.parametrize(
    ("probes", "text"),
    [
        ({8: "pass", 16: "fail", 11: "pass", 11.5: "fail"}, "met up to 11/s, and missed at 11.5/s"),
        ({8: "fail"}, "not met at any rate (fail: no rate down to 8/s passed)"),
        (
            {8: "pass", 16: "pass"},
            "met up to 16/s (inconclusive: 2 measurements did not narrow it down to latency.search.width)",
        ),
        ({}, "not met at any rate (inconclusive: 0 measurements did not narrow it down to latency.search.width)"),
    ],
)
def test_the_sentence_states_the_measured_bounds(probes: Mapping[float, str], text: str) -> None:
    made = [Probe(rate, 800, Outcome(outcome)) for rate, outcome in probes.items()]
    assert sentence(conclude(made, Search()), 50) == f"p99 within 50 ms was {text}"


def queue(rate: float, *, count: int = 2000, workers: int = 10**9, slots: int = 1) -> list[Timing]:
    """A server that takes 10 ms per request in `slots` slots, that is 100/s per slot, with `workers` open requests."""
    free, slot, timings = [0.0] * min(workers, count), [0.0] * slots, []
    for number, due_s in enumerate(schedule(count, rate, "poisson", 0)):
        sender, server = int(np.argmin(free)), int(np.argmin(slot))
        sent_s = max(due_s, free[sender])
        done_s = max(sent_s, slot[server]) + 0.01
        free[sender] = slot[server] = done_s
        timings.append(Timing(f"q{number}", due_s, sent_s, done_s, 10, None))
    return timings


def probed(timings: list[Timing], slo_ms: float = 100.0, **end: Any) -> Probe:
    settings = {"queries": len(timings), "rate": 1.0, "slo_ms": slo_ms, "min_duration_s": 1.0}
    made = recording(timings, header={"concurrent": True, "settings": settings}, end={"after": END, **end})
    return judged(made, summarise(made))


END = {**QUIET, "own_s": 2.0, "busy_s": 110.0}


def test_a_server_far_below_its_capacity_passes_and_one_above_it_fails() -> None:
    assert probed(queue(40)).outcome == "pass"
    assert probed(queue(150)).outcome == "fail"  # the queue keeps growing: one effective sample, all requests slow


def test_failed_requests_count_as_slow() -> None:
    timings = queue(40)
    broken = [replace(timing, error="503") if number % 20 == 0 else timing for number, timing in enumerate(timings)]
    assert probed(broken).outcome == "fail"


def test_a_load_generator_behind_schedule_is_not_mistaken_for_a_slow_server() -> None:
    late = [
        replace(timing, sent_s=timing.sent_s + 5, done_s=timing.done_s + 5) if number % 5 == 0 else timing
        for number, timing in enumerate(queue(20))
    ]
    probe = probed(late)
    assert probe.outcome == "invalid" and probe.reason.startswith("load generator behind schedule")
    # Answers take 40 ms from the send; the time with more workers is unknown.
    few = probed(queue(150, workers=4))
    assert few.outcome == "invalid" and few.reason.startswith("load generator behind schedule")


def test_a_server_that_is_slow_from_the_send_fails_even_if_the_generator_was_late() -> None:
    assert probed(queue(150, workers=16)).outcome == "fail"  # 16 open requests at 100/s take 160 ms


def test_a_probe_with_a_busy_client_or_a_dead_process_is_invalid() -> None:
    busy = probed(queue(150), after={**END, "own_s": 9.5})
    assert busy.outcome == "invalid" and busy.reason.startswith("load generator busy")
    assert probed(queue(40), died=["load process 2 of 2 was killed by signal 9"]).reason.startswith("load process 2")


def test_an_undecided_probe_states_the_requests_needed() -> None:
    probe = probed(queue(40, count=1000), slo_ms=20.0)
    over = sum(timing.response_s > 0.02 for timing in queue(40, count=1000))
    assert over > 0 and probe.outcome in ("fail", "inconclusive")
    short = probed(queue(20, count=640))
    assert short.outcome == "inconclusive" and short.wanted >= 662
