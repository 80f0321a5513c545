"""Several processes act as one load generator: one schedule, one clock, one recording; a dead one is reported."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

import engines
from engines import EngineUnavailable, Options
from engines.base import Pair
from harness.latency.load import Load, Request, Timing, Window, schedule
from harness.latency.processes import Processes
from tests.engines.server import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def options(url: str) -> Options:
    return engines.options("remote", {"dialect": "cohere", "url": url, "model": "m", "concurrency": 16, "attempts": 1})


@pytest.fixture(scope="module")
def two(server: Server) -> Iterator[Processes]:
    with Processes.open("remote", options(server.url), 2) as opened:
        yield opened


def requests(count: int) -> list[Request]:
    return [Request(f"q{n}", [Pair(f"query {n}", f"text {index}") for index in range(3)]) for n in range(count)]


def test_two_processes_send_exactly_one_schedule(two: Processes, server: Server) -> None:
    server.calls.clear()
    due_s, timings = schedule(60, 120, "poisson", seed=2), list[Timing]()
    begun_s = time.perf_counter()
    performed = two.perform(Load("server", requests(60), due_s, 8), timings.append, threading.Event())
    took_s = time.perf_counter() - begun_s
    assert {timing.query_id: timing.scheduled_s for timing in timings} == {f"q{n}": due_s[n] for n in range(60)}
    assert sorted(call.body["query"] for call in server.posts) == sorted(f"query {n}" for n in range(60))
    assert all(0 <= timing.delay_s and 0 < timing.service_s and timing.done_s <= took_s for timing in timings)
    assert {timing.error for timing in timings} == {None}
    assert (performed.counts.requests, performed.counts.retries, performed.died) == (60, 0, ())


def test_a_warm_up_reaches_every_process(two: Processes, server: Server) -> None:
    server.calls.clear()
    timings: list[Timing] = []
    two.perform(Load("single-stream", requests(4), workers=2), timings.append, threading.Event())
    assert sorted(timing.query_id for timing in timings) == ["q0", "q1", "q2", "q3"]
    assert len({call.peer for call in server.posts}) == 2  # one connection per process


def test_a_closed_loop_in_two_processes_ends_when_its_window_has_enough(two: Processes) -> None:
    timings, stop = list[Timing](), threading.Event()
    window = Window(6, 30, 0.0, timings.append, stop)
    performed = two.perform(Load("closed", requests(5), workers=3), window.add, stop)
    assert len(timings) == 30 and performed.died == ()
    assert performed.counts.requests >= 36


def test_one_worker_uses_one_process(two: Processes, server: Server) -> None:
    server.calls.clear()
    timings: list[Timing] = []
    two.perform(Load("server", requests(6), [0.0] * 6, 1), timings.append, threading.Event())
    assert [timing.query_id for timing in timings] == [f"q{n}" for n in range(6)]
    assert len({call.peer for call in server.posts}) == 1


def test_a_killed_process_is_reported_and_ends_the_load(server: Server) -> None:
    before = multiprocessing.active_children()
    with Processes.open("remote", options(server.url), 2) as opened:
        (victim,) = [
            child for child in multiprocessing.active_children() if child not in before and "2 of" in child.name
        ]
        timings: list[Timing] = []

        def record(timing: Timing) -> None:
            timings.append(timing)
            if len(timings) == 5:
                os.kill(victim.pid or 0, signal.SIGKILL)

        load = Load("server", requests(4000), schedule(4000, 40, "constant", 0), 4)  # 100 s unless it is stopped
        performed = opened.perform(load, record, threading.Event())
        assert performed.died == ("load process 2 of 2 was killed by signal 9",)
        assert 5 <= len(timings) < 4000
        again = opened.perform(load, record, threading.Event())
        assert again.died == performed.died  # also at the next load


def test_an_engine_that_does_not_load_is_unavailable() -> None:
    with pytest.raises(EngineUnavailable, match=r"load process 1 of 1: http://127\.0\.0\.1:1/.*start the server"):
        with Processes.open("remote", options("http://127.0.0.1:1"), 1):
            raise AssertionError("the engine was loaded")


def test_no_process_remains_when_the_measuring_process_stops(server: Server) -> None:
    before = {child.pid for child in multiprocessing.active_children()}

    def record(timing: Timing) -> None:
        raise KeyboardInterrupt

    load = Load("server", requests(400), schedule(400, 10, "constant", 0), 4)
    with pytest.raises(KeyboardInterrupt), Processes.open("remote", options(server.url), 2) as opened:
        opened.perform(load, record, threading.Event())
    assert {child.pid for child in multiprocessing.active_children()} == before
