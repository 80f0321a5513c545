"""The load generator: asks an engine for scores at known times and writes down what the clock saw.

One request after the other, all in one call, an open loop that sends on schedule whatever the engine does, or a closed
loop that keeps a number of requests under way. A request is a query with all its candidates. It knows engines by their
contract only.
"""

import gc
import itertools
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import numpy as np

from engines.base import Call, Engine, EngineError, Pair
from harness.run.loop import checked

LEAD_S = 0.05  # from the start of the workers to the schedule's zero
SWITCH_S = 0.0005  # a worker that scores holds the interpreter for 5 ms at a time by default: too long for a schedule

Arrivals = Literal["poisson", "constant"]


class Request(NamedTuple):
    query_id: str
    pairs: Sequence[Pair]


@dataclass(frozen=True)
class Timing:
    """One request as the clock saw it; seconds since the start of the measurement."""

    query_id: str
    scheduled_s: float  # when it should have been sent
    sent_s: float  # when it was; to an engine that takes one call at a time, when it stood in its queue
    done_s: float
    pairs: int
    tokens: int | None  # None where the engine does not tell them
    error: str | None = None
    first_byte_s: float | None = None  # when the answer began to come; None where the engine does not tell it

    @property
    def response_s(self) -> float:
        """What a client waits: it counts from the schedule, so that a stalled generator hides nothing."""
        return self.done_s - self.scheduled_s

    @property
    def service_s(self) -> float:
        return self.done_s - self.sent_s

    @property
    def delay_s(self) -> float:
        """How late the generator was."""
        return self.sent_s - self.scheduled_s


Record = Callable[[Timing], None]


@dataclass(frozen=True)
class Load:
    """What is sent, and how: in this process or in several."""

    kind: Literal["single-stream", "offline", "server", "closed"]
    requests: Sequence[Request]  # closed: they begin again
    due_s: Sequence[float] = ()  # server: when each is to be sent
    workers: int = 1  # requests under way; server: at most, closed: all the time

    def share(self, number: int, of: int) -> Self:
        """The part of one of several processes; together they are the one schedule and the one number of workers."""
        mine = slice(number, None, of)
        workers = len(range(number, self.workers, of))
        return replace(self, requests=self.requests[mine], due_s=self.due_s[mine], workers=workers)


class Target:
    """An engine under load. One that is not `concurrent` gets one call at a time, and its tokens are known for each."""

    def __init__(self, engine: Engine, *, concurrent: bool) -> None:
        self._engine = engine
        self.concurrent = concurrent
        self._origin_s = 0.0

    def start(self, origin_s: float | None = None) -> None:
        """Set the clock to zero: now, or when `time.perf_counter` reaches `origin_s`."""
        self._origin_s = time.perf_counter() if origin_s is None else origin_s

    def now(self) -> float:
        return time.perf_counter() - self._origin_s

    def counts(self) -> dict[str, int]:
        """What the engine counted since it was loaded."""
        return self._engine.counts().document()

    def ask(self, request: Request, scheduled_s: float | None = None, sent_s: float | None = None) -> Timing:
        """Score a request now; without a schedule, now is also when it should have been sent."""
        sent = self.now() if sent_s is None else sent_s
        before = {} if self.concurrent else self.counts()
        error, told = None, Call()
        try:
            values = self._engine.score(request.pairs)
            done_s, told = self.now(), self._engine.last_call()
            checked(values, request.pairs)
        except EngineError as problem:
            done_s, told, error = self.now(), Call(), str(problem)
        tokens = told.tokens
        if not self.concurrent and error is None:
            tokens = increase(before, self.counts()).get("tokens")
        first_byte_s = None if told.first_byte_s is None else told.first_byte_s - self._origin_s
        scheduled = sent if scheduled_s is None else scheduled_s
        return Timing(request.query_id, scheduled, sent, done_s, len(request.pairs), tokens, error, first_byte_s)


def perform(target: Target, load: Load, record: Record, stop: threading.Event, origin_s: float | None = None) -> None:
    """Put a target under load. Setting `stop` ends a closed loop."""
    if load.kind == "single-stream":
        single_stream(target, load.requests, record)
    elif load.kind == "offline":
        offline(target, load.requests, record)
    elif load.kind == "server":
        server(target, load, record, stop, origin_s)
    else:
        closed(target, load, record, stop, origin_s)


def single_stream(target: Target, requests: Sequence[Request], record: Record) -> None:
    """One after the other: a request is due when the one before is answered."""
    target.start()
    for request in requests:
        record(target.ask(request))


def offline(target: Target, requests: Sequence[Request], record: Record) -> None:
    """All pairs in one call, in the order of the requests; one timing, with no query's id."""
    pairs = [pair for request in requests for pair in request.pairs]
    target.start()
    record(target.ask(Request("", pairs)))


def server(target: Target, load: Load, record: Record, stop: threading.Event, origin_s: float | None = None) -> None:
    """An open loop: each request is sent at its time, whether or not the earlier ones are answered.

    The schedule counts from `origin_s` of `time.perf_counter`. At most `workers` are under way; when all of them are,
    the next one is late, which `delay_s` shows. An engine that takes one call at a time gets no workers: see `_queue`.
    """
    target.start(time.perf_counter() + LEAD_S if origin_s is None else origin_s)
    if not target.concurrent:
        _queue(target, load, record)
        return
    numbers = itertools.count()

    def work() -> None:
        for number in numbers:
            if number >= len(load.requests) or stop.is_set():
                return
            if stop.wait(max(load.due_s[number] - target.now(), 0)):
                return
            record(target.ask(load.requests[number], load.due_s[number]))

    _together(work, load.workers, stop)


def closed(target: Target, load: Load, record: Record, stop: threading.Event, origin_s: float | None = None) -> None:
    """A closed loop: `workers` requests are under way until `stop` is set. Every answer is recorded.

    Who records decides which of them count, and when it is enough: see `Window`.
    """
    numbers = itertools.count()

    def work() -> None:
        for number in numbers:
            if stop.is_set():
                return
            record(target.ask(load.requests[number % len(load.requests)]))

    target.start(origin_s)
    _together(work, load.workers, stop)


class Window:
    """The answers of a closed loop that count: behind the first `ramp`, at least `count` and for at least `least_s`.

    A loop starts with all of its requests in the same moment and ends with fewer and fewer under way. Both lie outside:
    the first answers are passed over while the loop goes on, and it goes on until the last that counts is in.
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
    """The open loop of an engine that takes one call at a time, in one thread.

    Whoever came while it scored stands in its queue since its time: that is exact without a thread that would have to
    wake up beside the engine's own, which keep every core and the interpreter busy.
    """
    free_s = 0.0  # when the answer before was given
    for request, due_s in zip(load.requests, load.due_s, strict=True):
        waits = due_s < free_s
        if not waits:
            time.sleep(max(due_s - target.now(), 0))
        timing = target.ask(request, due_s, due_s if waits else None)
        free_s = timing.done_s
        record(timing)


def _together(work: Callable[[], None], workers: int, stop: threading.Event) -> None:
    """Run `work` in so many threads. What one raises stops the others at their next request, and is raised here."""

    def guarded() -> None:
        try:
            work()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers, "load") as pool:
        running = [pool.submit(guarded) for _ in range(workers)]
        try:
            for each in running:
                each.result()
        finally:
            stop.set()


def schedule(count: int, rate: float, arrivals: Arrivals, seed: int) -> list[float]:
    """Seconds at which `count` requests are due, `rate` of them per second.

    Poisson: independent exponential gaps, never rescaled to end on time, as that is no Poisson process any more.
    """
    if arrivals == "constant":
        return [number / rate for number in range(count)]
    gaps_s = np.random.default_rng(seed).exponential(1 / rate, count)
    return [float(due_s) for due_s in np.cumsum(gaps_s)]


@contextmanager
def steady() -> Iterator[None]:
    """What exists is frozen out of garbage collection, whose full passes stall a Python process for 100 ms and more."""
    interval_s = sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        gc.unfreeze()


def increase(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """By how much each count grew; one that is not counted is not there."""
    return {name: count - before.get(name, 0) for name, count in after.items()}
