"""The load generator in several processes, for engines that take several calls at a time.

Python runs one thread at a time, so that one process sends about a thousand requests a second. Each process loads an
engine of its own, with its own connections, and sends its share of one schedule on the one clock of the machine.
"""

import multiprocessing
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import engines
from engines.base import EngineError, EngineUnavailable, Options
from harness import children
from harness.latency.load import LEAD_S, Load, Record, Target, Timing, increase, perform, steady

PATIENCE_S = 10.0  # for a process to end by itself
BATCH_S = 0.05  # answers are sent together for so long: each message takes time from the schedule

STOP = None
# What a process says: seconds of its clock (ready), answers, at its end what its engine counted, or what went wrong.
Message = float | list[Timing] | dict[str, int] | str


class Performed(NamedTuple):
    counts: Mapping[str, int]  # what the engines counted meanwhile, all together
    died: tuple[str, ...] = ()  # processes that ended before their load did, and how


class _Member(NamedTuple):
    process: BaseProcess
    connection: Connection

    @property
    def name(self) -> str:
        return self.process.name

    def tell(self, said: Load | float | None) -> None:
        with suppress(OSError):  # it has died, which is heard below
            self.connection.send(said)

    def hear(self) -> Message:
        """What it says; if it has died, that."""
        try:
            said: Message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(PATIENCE_S)
            code = self.process.exitcode or 0
            return f"{self.name} {f'was killed by signal {-code}' if code < 0 else f'ended with code {code}'}"
        return f"{self.name}: {said}" if isinstance(said, str) else said


class Processes:
    """Several load generators that act as one. Use `Processes.open`, which ends them."""

    def __init__(self, members: Sequence[_Member]) -> None:
        self._members = members

    @classmethod
    @contextmanager
    def open(cls, kind: str, options: Options, count: int) -> Iterator["Processes"]:
        """Start them and wait until their engines are loaded. Raises EngineUnavailable."""
        context = multiprocessing.get_context("spawn")  # a fork would copy threads and connections of the engine
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
                member.process.kill()  # nothing, unless it did not end

    def perform(self, load: Load, record: Record, stop: threading.Event) -> Performed:
        """As `load.perform`, in shares. A process that dies stops the others; what was answered until then is kept."""
        members = self._members[: min(len(self._members), load.workers, len(load.requests))]
        for number, member in enumerate(members):
            member.tell(load.share(number, len(members)))
        for member in members:
            member.hear()  # it has its share: the schedule begins when all of them have
        origin_s = time.perf_counter() + LEAD_S
        for member in members:
            member.tell(origin_s)
        return _collect({member.connection: member for member in members}, record, stop)


def _collect(left: dict[Connection, _Member], record: Record, stop: threading.Event) -> Performed:
    """Record what the processes answer until each has said that it is done. Each is told to stop exactly once."""
    counts: Counter[str] = Counter()
    died: list[str] = []
    running = dict(left)
    while left:
        for connection in wait(list(left)):
            assert isinstance(connection, Connection)
            said = left[connection].hear()
            if isinstance(said, list):
                for timing in said:
                    record(timing)
                continue
            if isinstance(said, dict):
                counts.update(said)
            else:
                died.append(str(said))
                stop.set()
            del left[connection]
        finished = running if stop.is_set() else running.keys() - left.keys()
        for connection in list(finished):
            running.pop(connection).tell(STOP)
    return Performed(dict(counts), tuple(died))


def generate(connection: Connection, kind: str, options: Options) -> None:
    """The process: load an engine, then put it under each load that comes, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; its end is ours
    with suppress(EOFError, OSError):
        try:
            with engines.load(kind, options) as engine:
                target = Target(engine, concurrent=True)
                connection.send(time.perf_counter())
                while True:
                    _obey(connection, target, connection.recv())
        except EngineError as error:
            connection.send(str(error))


def _obey(connection: Connection, target: Target, load: Load) -> None:
    """One load. It ends by itself or when the other side says so, which it does in both cases."""
    stop, mail = threading.Event(), _Mail(connection)

    def work(origin_s: float) -> None:
        before = target.counts()
        try:
            perform(target, load, mail.add, stop, origin_s)
            mail.close(increase(before, target.counts()))
        except Exception as error:  # the edge of a process: it has no other way to say what happened
            mail.close(f"{type(error).__name__}: {' '.join(str(error).split())}")

    with steady():  # takes its time before the schedule begins
        connection.send(time.perf_counter())
        working = threading.Thread(target=work, args=(connection.recv(),), name="load")
        working.start()
        try:
            connection.recv()
        finally:
            stop.set()
            working.join()


class _Mail:
    """Answers on their way out: several in one message, as each message takes time from the schedule."""

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
        with self._turn, suppress(OSError):  # nobody listens any more
            self._post()
            self._connection.send(last)

    def _post(self) -> None:
        timings, self._timings = self._timings, []
        self._sent_s = time.perf_counter()
        self._connection.send(timings)


def _check_ready(member: _Member, started_s: float) -> None:
    """Raises EngineUnavailable if the engine did not load, or if this system's processes do not share a clock."""
    said = member.hear()
    if not isinstance(said, float):
        raise EngineUnavailable(str(said))
    if not started_s <= said <= time.perf_counter():
        raise EngineUnavailable(f"{member.name} has another clock than this one: set latency.processes to 1")
