"""The load generator: asks an engine for scores at known times and writes down what the clock saw.

Three scenarios: one request after the other, all in one call, or an open loop that sends on schedule whatever the
engine does. A request is a query with all its candidates. It knows engines by their contract only.
"""

import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from engines.base import Engine, EngineError, Pair
from harness.run import checked

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
    sent_s: float  # when it was: before the lock of an engine that takes one call at a time
    done_s: float
    pairs: int
    tokens: int | None  # None where the engine does not count them, or counts several requests together
    error: str | None = None

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


class Target:
    """An engine under load. One that is not `concurrent` gets one call at a time, and its tokens are known for each."""

    def __init__(self, engine: Engine, *, concurrent: bool) -> None:
        self._engine = engine
        self._turn = nullcontext() if concurrent else threading.Lock()
        self._counts_each = not concurrent
        self._origin_s = 0.0

    def start(self, lead_s: float = 0.0) -> None:
        """Set the clock to zero, or to `lead_s` before it."""
        self._origin_s = time.perf_counter() + lead_s

    def now(self) -> float:
        return time.perf_counter() - self._origin_s

    def counts(self) -> dict[str, int]:
        """What the engine counted since it was loaded."""
        return dict(self._engine.counts())

    def ask(self, request: Request, scheduled_s: float | None = None) -> Timing:
        """Score a request now; without a schedule, now is also when it should have been sent."""
        sent_s = self.now()
        error, tokens = None, None
        with self._turn:
            before = self.counts() if self._counts_each else {}
            try:
                values = self._engine.score(request.pairs)
                done_s = self.now()
                checked(values, request.pairs)
            except EngineError as problem:
                done_s, error = self.now(), str(problem)
            if self._counts_each and error is None:
                tokens = increase(before, self.counts()).get("tokens")
        scheduled = sent_s if scheduled_s is None else scheduled_s
        return Timing(request.query_id, scheduled, sent_s, done_s, len(request.pairs), tokens, error)


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


def server(
    target: Target, requests: Sequence[Request], schedule_s: Sequence[float], workers: int, record: Record
) -> None:
    """An open loop: each request is sent at its time, whether or not the earlier ones are answered.

    At most `workers` are under way; when all of them are, the next one is late, which `delay_s` shows. Whatever
    a worker raises is raised here, after the others have finished the request they are at.
    """
    numbers, stopped = itertools.count(), threading.Event()

    def work() -> None:
        try:
            for number in numbers:
                if number >= len(requests) or stopped.is_set():
                    return
                if stopped.wait(max(schedule_s[number] - target.now(), 0)):
                    return
                record(target.ask(requests[number], schedule_s[number]))
        except BaseException:
            stopped.set()
            raise

    target.start(LEAD_S)
    with ThreadPoolExecutor(workers, "load") as pool:
        running = [pool.submit(work) for _ in range(workers)]
        try:
            for each in running:
                each.result()
        finally:
            stopped.set()


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
