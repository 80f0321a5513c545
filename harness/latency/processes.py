"""The load generator in several processes, for engines that take several calls at a time.

Python runs one thread at a time, so one process sends at most about a thousand requests per second. Every process loads
its own engine with its own connections. It sends its share of a common schedule by the machine's clock.
"""

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import engines
from engines.base import Counts, EngineError, EngineUnavailable, Options
from harness import children
from harness.latency.load import LEAD_S, Load, Record, Target, Timing, perform, steady

PATIENCE_S = 10.0  # time for a process to end by itself
BATCH_S = 0.05  # answers are collected for this time, since each message takes time from the schedule

STOP = None
# Messages of a process: its clock in seconds (ready), answers, the counts of its engine (at the end), or an error.
Message = float | list[Timing] | Counts | str


class Performed(NamedTuple):
    """The result of a load besides its timings."""

    counts: Counts  # increase of the counts of all engines together
    died: tuple[str, ...] = ()  # one phrase per process that ended before its load


class _Member(NamedTuple):
    process: BaseProcess
    connection: Connection

    @property
    def name(self) -> str:
        return self.process.name

    def send(self, order: Load | float | None) -> None:
        with suppress(OSError):  # the process has died, which `receive` reports
            self.connection.send(order)

    def receive(self) -> Message:
        """The next message of the process, or a phrase about its death."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(PATIENCE_S)
            code = self.process.exitcode or 0
            return f"{self.name} {f'was killed by signal {-code}' if code < 0 else f'ended with code {code}'}"
        return f"{self.name}: {message}" if isinstance(message, str) else message


class Processes:
    """Several load generators that act as one. Use `Processes.open`, which also ends them."""

    def __init__(self, members: Sequence[_Member]) -> None:
        self._members = members

    @classmethod
    @contextmanager
    def open(cls, kind: str, options: Options, count: int) -> Iterator["Processes"]:
        """Start `count` processes and wait until their engines are loaded. Raises EngineUnavailable."""
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads and connections of the engine
        members: list[_Member] = []
        started_s = time.perf_counter()
        try:
            for number in range(1, count + 1):
                ours, theirs = context.Pipe()
                name = f"load process {number} of {count}"
                process = context.Process(target=generate, name=name, args=(theirs, kind, options), daemon=True)
                with children.safe_path():
                    process.start()
                theirs.close()
                members.append(_Member(process, ours))
            for member in members:
                _check_ready(member, started_s)
            yield cls(members)
        finally:
            for member in members:
                member.connection.close()
            for member in members:
                member.process.join(PATIENCE_S)
                member.process.kill()  # does nothing to a process that has ended

    def perform(self, load: Load, record: Record, stop: threading.Event) -> Performed:
        """Perform a load as `load.perform` does, in shares. If a process dies, the others stop; answers are kept."""
        members = self._members[: min(len(self._members), load.workers, len(load.requests))]
        for number, member in enumerate(members):
            member.send(load.share(number, len(members)))
        for member in members:
            member.receive()  # the schedule begins when all processes have their shares
        origin_s = time.perf_counter() + LEAD_S
        for member in members:
            member.send(origin_s)
        return _collect({member.connection: member for member in members}, record, stop)


def _collect(members: dict[Connection, _Member], record: Record, stop: threading.Event) -> Performed:
    """Record the answers until every process has ended its load. STOP is sent to every process exactly once."""
    counts = Counts()
    died: list[str] = []
    performing, without_stop = dict(members), dict(members)
    while performing:
        for connection in wait(list(performing)):
            assert isinstance(connection, Connection)
            message = performing[connection].receive()
            if isinstance(message, list):
                for timing in message:
                    record(timing)
                continue
            if isinstance(message, Counts):
                counts += message
            else:
                died.append(str(message))
                stop.set()
            del performing[connection]
        finished = without_stop if stop.is_set() else without_stop.keys() - performing.keys()
        for connection in list(finished):
            without_stop.pop(connection).send(STOP)
    return Performed(counts, tuple(died))


def generate(connection: Connection, kind: str, options: Options) -> None:
    """The main function of a process: load an engine, then put it under every load received, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and then closes the pipe
    with suppress(EOFError, OSError):
        try:
            with engines.load(kind, options) as engine:
                target = Target(engine, concurrent=True)
                connection.send(time.perf_counter())
                while True:
                    _perform(connection, target, connection.recv())
        except EngineError as error:
            connection.send(str(error))


def _perform(connection: Connection, target: Target, load: Load) -> None:
    """Perform one load, which ends by itself or on STOP. The parent sends STOP in both cases."""
    stop, outbox = threading.Event(), _Outbox(connection)

    def work(origin_s: float) -> None:
        before = target.counts()
        try:
            perform(target, load, outbox.add, stop, origin_s)
            outbox.close(target.counts() - before)
        except Exception as error:  # an error can leave this process only as a message
            outbox.close(f"{type(error).__name__}: {' '.join(str(error).split())}")

    with steady():  # garbage collection happens before the schedule begins
        connection.send(time.perf_counter())
        working = threading.Thread(target=work, args=(connection.recv(),), name="load")
        working.start()
        try:
            connection.recv()
        finally:
            stop.set()
            working.join()


class _Outbox:
    """Collects answers and sends several in one message, since each message takes time from the schedule."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._turn = connection, threading.Lock()
        self._timings: list[Timing] = []
        self._sent_s = time.perf_counter()

    def add(self, timing: Timing) -> None:
        with self._turn:
            self._timings.append(timing)
            if time.perf_counter() - self._sent_s >= BATCH_S:
                self._post()

    def close(self, last: Message) -> None:
        with self._turn, suppress(OSError):  # the parent has closed the pipe
            self._post()
            self._connection.send(last)

    def _post(self) -> None:
        timings, self._timings = self._timings, []
        self._sent_s = time.perf_counter()
        self._connection.send(timings)


def _check_ready(member: _Member, started_s: float) -> None:
    """Raises EngineUnavailable if the engine did not load, or if the processes of this system do not share a clock."""
    clock_s = member.receive()
    if not isinstance(clock_s, float):
        raise EngineUnavailable(str(clock_s))
    if not started_s <= clock_s <= time.perf_counter():
        raise EngineUnavailable(f"{member.name} does not share this process's clock: set latency.processes to 1")
