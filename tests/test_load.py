"""The load generator sends on schedule, writes down what it saw, and hides no waiting."""

import gc
import itertools
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from engines.base import Engine, Options, Pair, ScoringFailed
from engines.fake import Fake, FakeOptions
from harness.latency.load import Request, Target, Timing, offline, schedule, server, single_stream, steady


class Scripted(Engine):
    """Answers with what a function gives for the call's number, and remembers the calls."""

    def __init__(self, answer: Callable[[int], float] = lambda number: 1.0, sleep_s: float = 0.0) -> None:
        super().__init__(Options())
        self._answer, self._sleep_s = answer, sleep_s
        self.calls: list[list[Pair]] = []
        self.inside = self.most_inside = 0

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        self.calls.append(list(pairs))
        number = len(self.calls) - 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            time.sleep(self._sleep_s)
            return [self._answer(number)] * len(pairs)
        finally:
            self.inside -= 1


def requests(count: int, size: int = 2) -> list[Request]:
    return [
        Request(f"q{number}", [Pair(f"query {number}", f"text {place}") for place in range(size)])
        for number in range(count)
    ]


def measured(run: Callable[..., None], engine: Engine, *arguments: object, concurrent: bool = False) -> list[Timing]:
    timings: list[Timing] = []
    run(Target(engine, concurrent=concurrent), *arguments, timings.append)
    return timings


def test_single_stream_asks_for_one_query_after_the_other() -> None:
    engine = Scripted(sleep_s=0.001)
    timings = measured(single_stream, engine, requests(5))
    assert [timing.query_id for timing in timings] == ["q0", "q1", "q2", "q3", "q4"]
    assert engine.calls == [list(request.pairs) for request in requests(5)]
    assert all(before.done_s <= after.sent_s for before, after in itertools.pairwise(timings))
    assert all(timing.scheduled_s == timing.sent_s and timing.service_s >= 0.001 for timing in timings)
    assert all(timing.pairs == 2 and timing.error is None for timing in timings)


def test_offline_is_one_call_with_every_pair_in_order() -> None:
    engine = Scripted()
    (timing,) = measured(offline, engine, requests(4, size=3))
    assert engine.calls == [[pair for request in requests(4, size=3) for pair in request.pairs]]
    assert (timing.query_id, timing.pairs) == ("", 12)


def test_a_server_gets_each_request_once_and_none_before_its_time() -> None:
    due_s = schedule(60, 600, "poisson", seed=3)
    timings = measured(server, Scripted(), requests(60), due_s, 8, concurrent=True)
    assert sorted(timing.query_id for timing in timings) == sorted(request.query_id for request in requests(60))
    assert sorted(timing.scheduled_s for timing in timings) == due_s
    assert all(timing.delay_s >= 0 for timing in timings)
    assert {timing.query_id: timing.scheduled_s for timing in timings} == {f"q{n}": due_s[n] for n in range(60)}


def test_waiting_behind_a_slow_answer_is_part_of_the_latency() -> None:
    """Coordinated omission: one worker, answers of 20 ms, all due at once. The n-th answer takes n times 20 ms."""
    timings = measured(server, Scripted(sleep_s=0.02), requests(5), [0.0] * 5, 1)
    for number, timing in enumerate(timings, 1):
        assert timing.response_s >= 0.02 * number
        assert timing.response_s == pytest.approx(timing.delay_s + timing.service_s)
        assert timing.delay_s >= 0.02 * (number - 1)


def test_the_queue_of_an_engine_that_takes_one_call_at_a_time_is_its_own_and_no_delay_of_the_generator() -> None:
    engine = Scripted(sleep_s=0.02)
    timings = sorted(measured(server, engine, requests(4), [0.0] * 4, 4), key=lambda timing: timing.done_s)
    assert engine.most_inside == 1
    for number, timing in enumerate(timings, 1):
        assert timing.service_s + timing.delay_s >= 0.02 * number
    assert timings[-1].sent_s < timings[-1].done_s - 0.02  # sent before its turn came


def test_a_concurrent_engine_gets_several_calls_at_a_time() -> None:
    together = threading.Barrier(3, timeout=30)  # breaks unless three calls are inside at once

    class Meeting(Scripted):
        def score(self, pairs: Sequence[Pair]) -> list[float]:
            together.wait()
            return super().score(pairs)

    timings = measured(server, Meeting(), requests(3), [0.0] * 3, 3, concurrent=True)
    assert [timing.error for timing in timings] == [None] * 3


def test_tokens_are_those_of_the_request_where_calls_do_not_overlap() -> None:
    for concurrent, tokens in ((False, 8), (True, None)):  # two words in each of two queries and of two documents
        timings = measured(server, Fake(FakeOptions()), requests(6), [0.0] * 6, 3, concurrent=concurrent)
        assert {timing.tokens for timing in timings} == {tokens}
    assert {timing.tokens for timing in measured(single_stream, Scripted(), requests(2))} == {None}  # counts nothing


def test_a_request_that_fails_is_a_timing_with_its_error() -> None:
    def answer(number: int) -> float:
        if number == 1:
            raise ScoringFailed("the server said 503")
        return math.nan if number == 2 else 1.0

    timings = measured(single_stream, Scripted(answer), requests(4))
    assert [timing.error is None for timing in timings] == [True, False, False, True]
    assert timings[1].error == "the server said 503"
    assert "expected a finite number" in str(timings[2].error)
    assert timings[1].tokens is None


def test_a_fault_in_an_engine_ends_the_measurement_and_is_raised() -> None:
    def answer(number: int) -> float:
        if number == 3:
            raise ZeroDivisionError("a bug")
        return 1.0

    engine = Scripted(answer)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        measured(server, engine, requests(500), schedule(500, 10, "constant", seed=0), 4)
    assert len(engine.calls) < 500


def test_constant_arrivals_are_evenly_spaced_from_zero_on() -> None:
    assert schedule(4, 8, "constant", seed=5) == [0.0, 0.125, 0.25, 0.375]


def test_poisson_arrivals_have_independent_exponential_gaps() -> None:
    due_s = schedule(4000, 20, "poisson", seed=1)
    gaps_s = [after - before for before, after in zip([0.0, *due_s], due_s, strict=False)]
    assert stats.kstest(gaps_s, "expon", args=(0, 1 / 20)).pvalue > 0.01  # a fixed seed: always the same draw
    assert due_s[-1] != 4000 / 20  # not rescaled


@given(count=st.integers(0, 200), rate=st.floats(0.01, 1e4), seed=st.integers(0, 2**32))
def test_a_schedule_only_grows_and_depends_on_its_seed_alone(count: int, rate: float, seed: int) -> None:
    due_s = schedule(count, rate, "poisson", seed)
    assert len(due_s) == count and due_s == sorted(due_s) and min(due_s, default=0) >= 0
    assert due_s == schedule(count, rate, "poisson", seed)
    if count > 1:
        assert due_s != schedule(count, rate, "poisson", seed + 1)


def test_garbage_collection_is_frozen_while_measuring_and_free_again_afterwards() -> None:
    interval_s = sys.getswitchinterval()
    with pytest.raises(KeyboardInterrupt), steady():
        assert gc.get_freeze_count() > 1000
        assert sys.getswitchinterval() < interval_s
        raise KeyboardInterrupt
    assert gc.get_freeze_count() == 0
    assert sys.getswitchinterval() == interval_s
