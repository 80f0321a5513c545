"""The load generator sends on schedule, records every answer and includes all waiting time."""

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

from engines.base import Call, Engine, EngineFailed, Options, Pair, ScoringFailed
from engines.fake import Fake, FakeOptions
from harness.latency.load import Load, Request, Target, Timing, Window, perform, schedule, steady


class Scripted(Engine):
    """Answers every call with a function of its number and records the calls."""

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
        Request(f"q{number}", [Pair(f"query {number}", f"text {index}") for index in range(size)])
        for number in range(count)
    ]


def measured(engine: Engine, load: Load, *, concurrent: bool = False) -> list[Timing]:
    timings: list[Timing] = []
    perform(Target(engine, concurrent=concurrent), load, timings.append, threading.Event())
    return timings


def single_stream(engine: Engine, load_requests: Sequence[Request]) -> list[Timing]:
    return measured(engine, Load("single-stream", load_requests))


def server(
    engine: Engine, load_requests: Sequence[Request], due_s: Sequence[float], workers: int, *, concurrent: bool = True
) -> list[Timing]:
    return measured(engine, Load("server", load_requests, due_s, workers), concurrent=concurrent)


def test_single_stream_sends_one_query_after_the_other() -> None:
    engine = Scripted(sleep_s=0.001)
    timings = single_stream(engine, requests(5))
    assert [timing.query_id for timing in timings] == ["q0", "q1", "q2", "q3", "q4"]
    assert engine.calls == [list(request.pairs) for request in requests(5)]
    assert all(before.done_s <= after.sent_s for before, after in itertools.pairwise(timings))
    assert all(timing.scheduled_s == timing.sent_s and timing.service_s >= 0.001 for timing in timings)
    assert all(timing.pairs == 2 and timing.error is None for timing in timings)


def test_offline_is_one_call_with_every_pair_in_order() -> None:
    engine = Scripted()
    (timing,) = measured(engine, Load("offline", requests(4, size=3)))
    assert engine.calls == [[pair for request in requests(4, size=3) for pair in request.pairs]]
    assert (timing.query_id, timing.pairs) == ("", 12)


def test_every_request_of_the_server_scenario_is_sent_once_and_not_early() -> None:
    due_s = schedule(60, 600, "poisson", seed=3)
    timings = server(Scripted(), requests(60), due_s, 8)
    assert sorted(timing.query_id for timing in timings) == sorted(request.query_id for request in requests(60))
    assert sorted(timing.scheduled_s for timing in timings) == due_s
    assert all(timing.delay_s >= 0 for timing in timings)
    assert {timing.query_id: timing.scheduled_s for timing in timings} == {f"q{n}": due_s[n] for n in range(60)}


def test_waiting_behind_a_slow_answer_counts_as_latency() -> None:
    """Coordinated omission: one worker, answers of 20 ms, all due at once; the n-th answer takes n times 20 ms."""
    timings = server(Scripted(sleep_s=0.02), requests(5), [0.0] * 5, 1)
    for number, timing in enumerate(timings, 1):
        assert timing.response_s >= 0.02 * number
        assert timing.response_s == pytest.approx(timing.delay_s + timing.service_s)
        assert timing.delay_s >= 0.02 * (number - 1)


def test_the_queue_of_a_serial_engine_counts_as_service_and_not_as_delay() -> None:
    engine = Scripted(sleep_s=0.02)
    timings = server(engine, requests(4), [0.0, 0.0, 0.01, 0.5], 1, concurrent=False)
    assert engine.most_inside == 1
    assert [timing.delay_s for timing in timings[1:3]] == [0.0, 0.0]  # both entered the queue on time
    assert timings[1].service_s >= 0.04 - timings[0].delay_s and timings[2].service_s >= 0.05 - timings[0].delay_s
    assert timings[3].sent_s >= 0.5 and timings[3].service_s >= 0.02  # the queue is empty, so it is sent when it is due
    assert [timing.response_s for timing in timings] == pytest.approx(
        [timing.delay_s + timing.service_s for timing in timings]
    )


def test_a_serial_engine_is_called_in_the_measuring_thread() -> None:
    """A second thread would have to wake up beside those of the engine and would be late."""
    seen: set[int] = set()

    class Watching(Scripted):
        def score(self, pairs: Sequence[Pair]) -> list[float]:
            seen.add(threading.get_ident())
            return super().score(pairs)

    server(Watching(), requests(9), [0.0] * 9, 4, concurrent=False)
    assert seen == {threading.get_ident()}


def test_a_concurrent_engine_gets_overlapping_calls() -> None:
    together = threading.Barrier(3, timeout=30)  # breaks unless three calls overlap

    class Meeting(Scripted):
        def score(self, pairs: Sequence[Pair]) -> list[float]:
            together.wait()
            return super().score(pairs)

    timings = server(Meeting(), requests(3), [0.0] * 3, 3)
    assert [timing.error for timing in timings] == [None] * 3


def test_tokens_are_counted_per_request_only_without_overlapping_calls() -> None:
    # Two pairs, each of two words in the query and two in the document.
    for concurrent, tokens in ((False, 8), (True, None)):
        timings = server(Fake(FakeOptions()), requests(6), [0.0] * 6, 3, concurrent=concurrent)
        assert {timing.tokens for timing in timings} == {tokens}
    assert {timing.tokens for timing in single_stream(Scripted(), requests(2))} == {None}  # counts nothing


def test_a_failed_request_is_a_timing_with_its_error() -> None:
    def answer(number: int) -> float:
        if number == 1:
            raise ScoringFailed("the server answered 503")
        return math.nan if number == 2 else 1.0

    timings = single_stream(Scripted(answer), requests(4))
    assert [timing.error is None for timing in timings] == [True, False, False, True]
    assert timings[1].error == "the server answered 503"
    assert "expected a finite number" in str(timings[2].error)
    assert timings[1].tokens is None


def test_an_engine_with_a_fault_of_its_own_is_gone_after_three_requests() -> None:
    def answer(number: int) -> float:
        if number >= 3:
            raise ZeroDivisionError("a bug")
        return 1.0

    timings = server(Scripted(answer), requests(500), schedule(500, 1000, "constant", seed=0), 1)
    assert [timing.error for timing in timings] == [None] * 3 + ["ZeroDivisionError: a bug"] * 3


class ReportingEngine(Scripted):
    """Reports for every call that the first byte came 5 ms before the end and that it took 7 tokens."""

    def last_call(self) -> Call:
        return Call(time.perf_counter() - 0.005, 7)


def test_the_first_byte_and_tokens_that_an_engine_reports_are_recorded() -> None:
    (timing,) = server(ReportingEngine(sleep_s=0.02), requests(1), [0.0], 1)
    assert timing.tokens == 7
    assert timing.first_byte_s is not None and timing.sent_s < timing.first_byte_s < timing.done_s


def test_a_failed_request_does_not_inherit_the_first_byte_of_an_earlier_one() -> None:
    def answer(number: int) -> float:
        return 1.0 if number == 0 else math.nan

    whole, failed = single_stream(ReportingEngine(answer, sleep_s=0.02), requests(2))
    assert whole.first_byte_s is not None
    assert (failed.first_byte_s, failed.tokens) == (None, None)


def test_constant_arrivals_are_evenly_spaced_from_zero() -> None:
    assert schedule(4, 8, "constant", seed=5) == [0.0, 0.125, 0.25, 0.375]


def test_poisson_arrivals_have_independent_exponential_gaps() -> None:
    due_s = schedule(4000, 20, "poisson", seed=1)
    gaps_s = [after - before for before, after in zip([0.0, *due_s], due_s, strict=False)]
    assert stats.kstest(gaps_s, "expon", args=(0, 1 / 20)).pvalue > 0.01  # the fixed seed makes it reproducible
    assert due_s[-1] != 4000 / 20  # not rescaled


@given(count=st.integers(0, 200), rate=st.floats(0.01, 1e4), seed=st.integers(0, 2**32))
def test_a_schedule_is_sorted_and_depends_only_on_its_seed(count: int, rate: float, seed: int) -> None:
    due_s = schedule(count, rate, "poisson", seed)
    assert len(due_s) == count and due_s == sorted(due_s) and min(due_s, default=0) >= 0
    assert due_s == schedule(count, rate, "poisson", seed)
    if count > 1:
        assert due_s != schedule(count, rate, "poisson", seed + 1)


def test_garbage_collection_is_frozen_while_measuring_and_restored_afterwards() -> None:
    interval_s = sys.getswitchinterval()
    with pytest.raises(KeyboardInterrupt), steady():
        assert gc.get_freeze_count() > 1000
        assert sys.getswitchinterval() < interval_s
        raise KeyboardInterrupt
    assert gc.get_freeze_count() == 0
    assert sys.getswitchinterval() == interval_s


@given(
    count=st.integers(0, 60),
    workers=st.integers(1, 40),
    of=st.integers(1, 9),
    rate=st.floats(0.1, 1e4),
    seed=st.integers(0, 2**32),
)
def test_the_shares_of_all_processes_add_up_to_the_schedule(
    count: int, workers: int, of: int, rate: float, seed: int
) -> None:
    whole = Load("server", requests(count), schedule(count, rate, "poisson", seed), workers)
    shares = [whole.share(number, of) for number in range(of)]
    sent = [request for share in shares for request in zip(share.due_s, share.requests, strict=True)]
    assert sorted(sent) == sorted(zip(whole.due_s, whole.requests, strict=True))
    assert sum(share.workers for share in shares) == workers
    assert max(share.workers for share in shares) - min(share.workers for share in shares) <= 1


def answer_at(done_s: float) -> Timing:
    return Timing("q", done_s - 0.5, done_s - 0.5, done_s, 1, None)


@pytest.mark.parametrize(
    ("least_s", "counted"),
    [(0.0, [4.0, 5.0, 6.0, 7.0, 8.0]), (6.0, [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])],  # 5 answers, or 6 s
)
def test_a_window_skips_the_ramp_and_closes_with_enough_answers(least_s: float, counted: list[float]) -> None:
    kept: list[Timing] = []
    stop = threading.Event()
    window = Window(3, 5, least_s, kept.append, stop)
    for number in range(1, 20):
        assert stop.is_set() == (number > counted[-1])
        window.add(answer_at(float(number)))
    assert [timing.done_s for timing in kept] == counted


def test_a_closed_loop_keeps_its_requests_open_and_its_window_excludes_start_and_end() -> None:
    engine, kept, stop = Scripted(sleep_s=0.005), list[Timing](), threading.Event()
    window = Window(8, 40, 0.0, kept.append, stop)
    perform(Target(engine, concurrent=True), Load("closed", requests(3), workers=4), window.add, stop)
    assert engine.most_inside == 4
    assert len(kept) == 40 and {timing.query_id for timing in kept} == {"q0", "q1", "q2"}  # the queries repeat
    assert all(timing.delay_s == 0 for timing in kept)  # a request is due when the previous one was answered
    assert 48 <= len(engine.calls) <= 52  # the ramp, the window and the requests still open at its end


@pytest.mark.parametrize(
    ("load", "concurrent"),
    [
        (Load("single-stream", requests(500)), False),
        (Load("server", requests(500), [0.0] * 500, 4), False),
        (Load("server", requests(500), [0.0] * 500, 4), True),
        (Load("closed", requests(3), workers=4), True),
    ],
)
def test_a_load_ends_when_its_engine_is_gone(load: Load, concurrent: bool) -> None:
    def answer(number: int) -> float:
        if number >= 20:
            raise EngineFailed("nobody listens")
        return 1.0

    engine = Scripted(answer)
    timings = measured(engine, load, concurrent=concurrent)
    failed = [timing.error for timing in timings if timing.error is not None]
    assert set(failed) == {"nobody listens"} and 3 <= len(failed) < 20  # answers of four workers may cross
    assert len(engine.calls) == len(timings) == 20 + len(failed)


def test_a_request_that_fails_alone_ends_no_load() -> None:
    def answer(number: int) -> float:
        raise ScoringFailed("this query alone")

    assert len(single_stream(Scripted(answer), requests(10))) == 10
