"""The load generator: sends requests to an engine at known times and records the clock.

There are four loads: one request after the other, all pairs in one call, an open loop that keeps its schedule even if
the engine falls behind, and a closed loop that keeps a number of requests under way. A request is a query with all its
candidates. Engines are used only through their contract.
"""

import gc
import itertools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import numpy as np

from engines.base import Call, Counts, Engine, EngineError, EngineFailed, Pair
from engines.own_errors import own_errors_as
from harness.run.loop import GIVE_UP_AFTER, checked

LEAD_S = 0.05  # time from the start of the workers to the zero of the schedule
SWITCH_S = 0.0005  # a thread holds the interpreter for up to 5 ms by default, which is too long for a schedule

Arrivals = Literal["poisson", "constant"]


class Request(NamedTuple):
    """A query with its candidates."""

    query_id: str
    pairs: Sequence[Pair]


@dataclass(frozen=True)
class Timing:
    """The times of one request, in seconds since the start of the measurement."""

    query_id: str
    scheduled_s: float  # when it should have been sent
    sent_s: float  # when it was sent; for an engine that takes one call at a time, when it entered the queue
    done_s: float
    pairs: int
    tokens: int | None  # None if the engine does not report them
    error: str | None = None
    first_byte_s: float | None = None  # when the answer began to arrive; None if the engine does not report it

    @property
    def response_s(self) -> float:
        """The wait of a client. It counts from the schedule, so that a stalled generator cannot hide any wait."""
        return self.done_s - self.scheduled_s

    @property
    def service_s(self) -> float:
        return self.done_s - self.sent_s

    @property
    def delay_s(self) -> float:
        """The lateness of the generator."""
        return self.sent_s - self.scheduled_s


Record = Callable[[Timing], None]


@dataclass(frozen=True)
class Load:
    """The requests to send and their timing, for one process or several."""

    kind: Literal["single-stream", "offline", "server", "closed"]
    requests: Sequence[Request]  # a closed load repeats them
    due_s: Sequence[float] = ()  # server: scheduled time of every request
    workers: int = 1  # requests under way: at most (server) or all the time (closed)

    def share(self, number: int, of: int) -> Self:
        """The part of process `number` out of `of`; all parts together have this schedule and number of workers."""
        part = slice(number, None, of)
        workers = len(range(number, self.workers, of))
        return replace(self, requests=self.requests[part], due_s=self.due_s[part], workers=workers)


class Target:
    """An engine under load. Unless it is `concurrent`, it gets one call at a time, so a call's tokens are known."""

    def __init__(self, engine: Engine, *, concurrent: bool) -> None:
        self._engine = engine
        self.concurrent = concurrent
        self._origin_s = 0.0
        self._failed_in_a_row = 0  # requests that failed because of the engine

    def start(self, origin_s: float | None = None) -> None:
        """Set the clock to zero: now, or when `time.perf_counter` reaches `origin_s`."""
        self._origin_s = time.perf_counter() if origin_s is None else origin_s
        self._failed_in_a_row = 0

    @property
    def is_gone(self) -> bool:
        """Whether the engine failed for so many requests in a row that no load asks it for more."""
        return self._failed_in_a_row >= GIVE_UP_AFTER

    def now(self) -> float:
        return time.perf_counter() - self._origin_s

    def counts(self) -> Counts:
        """The counts of the engine since it was loaded."""
        with own_errors_as(EngineFailed):
            return self._engine.counts()

    def score(self, request: Request, scheduled_s: float | None = None, sent_s: float | None = None) -> Timing:
        """Score a request now; without `scheduled_s` it is due now. The timing holds an error of the engine."""
        sent = self.now() if sent_s is None else sent_s
        before = Counts() if self.concurrent else self.counts()
        error, call = None, Call()
        try:
            with own_errors_as(EngineFailed):
                values = self._engine.score(request.pairs)
                done_s, call = self.now(), self._engine.last_call()
                checked(values, request.pairs)
            self._failed_in_a_row = 0
        except EngineError as problem:
            done_s, call, error = self.now(), Call(), str(problem)
            self._failed_in_a_row = self._failed_in_a_row + 1 if isinstance(problem, EngineFailed) else 0
        tokens = call.tokens
        if not self.concurrent and error is None:
            tokens = (self.counts() - before).tokens
        first_byte_s = None if call.first_byte_s is None else call.first_byte_s - self._origin_s
        scheduled = sent if scheduled_s is None else scheduled_s
        return Timing(request.query_id, scheduled, sent, done_s, len(request.pairs), tokens, error, first_byte_s)


def perform(target: Target, load: Load, record: Record, stop: threading.Event, origin_s: float | None = None) -> None:
    """Put a target under load. Setting `stop` ends an open or a closed loop, and a target that is gone ends any."""
    if load.kind == "single-stream":
        single_stream(target, load.requests, record)
    elif load.kind == "offline":
        offline(target, load.requests, record)
    elif load.kind == "server":
        server(target, load, record, stop, origin_s)
    else:
        closed(target, load, record, stop, origin_s)


def single_stream(target: Target, requests: Sequence[Request], record: Record) -> None:
    """Send one request after the other. A request is due when the previous one is answered."""
    target.start()
    for request in requests:
        record(target.score(request))
        if target.is_gone:
            return


def offline(target: Target, requests: Sequence[Request], record: Record) -> None:
    """Send all pairs in one call, in the order of the requests, and record one timing with an empty query id."""
    pairs = [pair for request in requests for pair in request.pairs]
    target.start()
    record(target.score(Request("", pairs)))


def server(target: Target, load: Load, record: Record, stop: threading.Event, origin_s: float | None = None) -> None:
    """An open loop: every request is sent at its scheduled time, even if earlier ones are not answered yet.

    The schedule counts from `origin_s` of `time.perf_counter`. At most `workers` requests are under way; beyond that
    limit the next request is late, which `delay_s` shows. For an engine that takes one call at a time, see `_queue`.
    """
    target.start(time.perf_counter() + LEAD_S if origin_s is None else origin_s)
    if not target.concurrent:
        _queue(target, load, record)
        return
    numbers = itertools.count()

    def work() -> None:
        for number in numbers:
            if number >= len(load.requests) or stop.is_set() or target.is_gone:
                return
            if stop.wait(max(load.due_s[number] - target.now(), 0)):
                return
            record(target.score(load.requests[number], load.due_s[number]))

    _together(work, load.workers, stop)


def closed(target: Target, load: Load, record: Record, stop: threading.Event, origin_s: float | None = None) -> None:
    """A closed loop: `workers` requests are under way until `stop` is set. Every answer is recorded.

    `record` decides which answers count and when the loop ends: see `Window`.
    """
    numbers = itertools.count()

    def work() -> None:
        for number in numbers:
            if stop.is_set() or target.is_gone:
                return
            record(target.score(load.requests[number % len(load.requests)]))

    target.start(origin_s)
    _together(work, load.workers, stop)


class Window:
    """The counted answers of a closed loop: at least `count` answers over at least `least_s`, after the first `ramp`.

    A loop sends all of its first requests at the same moment and ends with fewer and fewer under way. Both phases are
    excluded: the first answers are skipped, and the loop continues until the last counted answer has arrived.
    """

    def __init__(self, ramp: int, count: int, least_s: float, record: Record, stop: threading.Event) -> None:
        self._ramp, self._count, self._least_s, self._record, self._stop = ramp, count, least_s, record, stop
        self._seen, self._opened_s, self._turn = 0, math.inf, threading.Lock()

    def add(self, timing: Timing) -> None:
        with self._turn:
            self._seen += 1
            counted = self._seen - self._ramp
            if counted < 1 or self._stop.is_set():
                return
            self._record(timing)
            self._opened_s = min(self._opened_s, timing.done_s)
            if counted >= self._count and timing.done_s - self._opened_s >= self._least_s:
                self._stop.set()


def _queue(target: Target, load: Load, record: Record) -> None:
    """The open loop for an engine that takes one call at a time, in one thread.

    A request that is due while the engine scores counts as queued since its scheduled time. This is exact and avoids a
    second thread, which would compete with the engine's threads for the cores and the interpreter.
    """
    free_s = 0.0  # time of the previous answer
    for request, due_s in zip(load.requests, load.due_s, strict=True):
        waits = due_s < free_s
        if not waits:
            time.sleep(max(due_s - target.now(), 0))
        timing = target.score(request, due_s, due_s if waits else None)
        free_s = timing.done_s
        record(timing)
        if target.is_gone:
            return


def _together(work: Callable[[], None], workers: int, stop: threading.Event) -> None:
    """Run `work` in `workers` threads. An error in one stops the others at their next request, and is raised here."""

    def guarded() -> None:
        try:
            work()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers, "load") as pool:
        running = [pool.submit(guarded) for _ in range(workers)]
        try:
            for future in running:
                future.result()
        finally:
            stop.set()


def schedule(count: int, rate: float, arrivals: Arrivals, seed: int) -> list[float]:
    """The times in seconds at which `count` requests are due, at `rate` requests per second.

    Poisson arrivals have independent exponential gaps. They are not rescaled to end on time, because the result would
    not be a Poisson process.
    """
    if arrivals == "constant":
        return [number / rate for number in range(count)]
    gaps_s = np.random.default_rng(seed).exponential(1 / rate, count)
    return [float(due_s) for due_s in np.cumsum(gaps_s)]


@contextmanager
def steady() -> Iterator[None]:
    """Exclude existing objects from garbage collection, whose full passes stall a process for 100 ms or more."""
    interval_s = sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        gc.unfreeze()
