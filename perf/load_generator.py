"""Precision of the load generator: how late it sends requests to a target that answers at once.

python perf/load_generator.py                          # a server on loopback, through a bare socket
python perf/load_generator.py --through remote         # the same server through the remote engine, with httpx's time
python perf/load_generator.py --through nothing        # no server: an engine that answers at once
python perf/load_generator.py --rate 500 1000 --processes 1 --seconds 10

Exit 0 if the last rate was held: every request was answered, and the p99 of the delay stayed below the bound; else 1.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

import engines
from engines.base import Description, Engine, Options, Pair
from harness import machine
from harness.config import Latency
from harness.latency import conditions
from harness.latency.load import Load, Request, Target, Timing, perform, schedule, steady
from harness.latency.processes import Processes
from harness.latency.recording import Header, Recorder
from harness.machine import cores
from harness.manifest import BenchmarkRecord, CandidatesRecord

TEXTS = [f"document {number} is about an animal" for number in range(10)]
REQUEST = Request("q", [Pair("what is an animal", text) for text in TEXTS])
SCORES = {"results": [{"index": number, "relevance_score": 0.5} for number in range(len(TEXTS))]}
BODY = json.dumps(SCORES).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
HEADINGS = "rate/s  answers/s  failed  delay p50 ms      p99    p99.9     max  service p50 ms  client cores"


class BareOptions(Options):
    port: int


class Bare(Engine):
    """Speaks just enough HTTP for the server below, so that the remaining time is the load generator's own."""

    options_type: ClassVar[type[Options]] = BareOptions
    options: BareOptions

    def __init__(self, options: BareOptions) -> None:
        super().__init__(options)
        self._local = threading.local()  # one connection per thread

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        if not hasattr(self._local, "socket"):
            self._local.socket = socket.create_connection(("127.0.0.1", self.options.port))
            self._local.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = json.dumps({"query": pairs[0][0], "documents": [document for _, document in pairs]}).encode()
        self._local.socket.sendall(b"POST /v2/rerank HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        answer = b""
        while len(answer) < len(ANSWER):
            answer += self._local.socket.recv(65536)
        results = json.loads(answer.partition(b"\r\n\r\n")[2])["results"]
        return [result["relevance_score"] for result in results]


engines.ENGINES["bare"] = f"{__name__}:Bare"  # a spawned process imports this file and knows it too


class AtOnce(asyncio.Protocol):
    """Answers every request with the same scores as soon as its last byte has arrived."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received = transport, b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            _, _, length = self._received[:end].lower().partition(b"content-length:")
            size = end + 4 + (int(length.split(b"\r\n", 1)[0]) if length else 0)
            if len(self._received) < size:
                return
            self._received = self._received[size:]
            self._transport.write(ANSWER)


def serve(connection: Connection) -> None:
    """Run the server in this process until the process is ended."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(AtOnce, "127.0.0.1", 0)
        connection.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


class LoadSubject(NamedTuple):
    kind: str
    options: dict[str, Any]


@contextmanager
def opened_subject(through: str, workers: int) -> Iterator[LoadSubject]:
    if through == "nothing":
        yield LoadSubject("fake", {"constant": True})
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        port = ours.recv()
        remote = {"dialect": "cohere", "url": f"http://127.0.0.1:{port}", "model": "m", "concurrency": workers}
        yield LoadSubject("bare", {"port": port}) if through == "socket" else LoadSubject("remote", remote)
    finally:
        process.terminate()
        process.join()


def header(subject: LoadSubject, rate: float) -> Header:
    """The first line of a recording, of a benchmark that there is not."""
    candidates = CandidatesRecord("", len(TEXTS), {}, "", recall=0.0, oracle=0.0, random=0.0)
    return Header(
        engine=subject.kind,
        kind=subject.kind,
        options=subject.options,
        description=Description(),
        concurrent=True,
        ceiling=None,
        benchmark="",
        benchmark_entry=BenchmarkRecord("", "", 1, len(TEXTS), "english", False, (), candidates),
        name="server",
        scenario="server",
        part_of=None,
        settings=Latency(rate=rate),
        distinct_queries=1,
        warmup=(),
        machine=machine.record(),
        before=conditions.read(),
        started="",
    )


def measure(subject: LoadSubject, rate: float, seconds: float, *, workers: int, processes: int) -> list[Timing]:
    count, timings, stop = round(rate * seconds), list[Timing](), threading.Event()
    load = Load("server", [REQUEST] * count, schedule(count, rate, "poisson", 0), workers)
    warmup = Load("single-stream", [REQUEST] * 20 * processes, workers=processes)
    with (
        tempfile.TemporaryDirectory() as folder,
        Recorder(Path(folder) / "samples.jsonl", header(subject, rate)) as recorder,
    ):

        def record(timing: Timing) -> None:  # on disk too, as a measurement writes it
            recorder.add(timing)
            timings.append(timing)

        if processes > 1:
            with (
                Processes.open(subject.kind, engines.options(subject.kind, subject.options), processes) as several,
                steady(),
            ):
                several.perform(warmup, lambda _: None, threading.Event())
                several.perform(load, record, stop)
        else:
            with engines.load(subject.kind, subject.options) as engine, steady():
                target = Target(engine, concurrent=True)
                perform(target, warmup, lambda _: None, threading.Event())
                perform(target, load, record, stop)
    return timings


def used_s() -> float:
    """CPU time of this process and of its children that have ended. The server still runs, so it is not included."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, nargs="+", default=[500, 1000, 1500, 2000], help="requests per second")
    parser.add_argument("--seconds", type=float, default=30, help="duration of each rate")
    parser.add_argument("--processes", type=int, default=2, help="sending processes")
    parser.add_argument("--workers", type=int, default=32, help="largest number of requests under way")
    parser.add_argument(
        "--through", choices=["socket", "remote", "nothing"], default="socket", help="way to the target"
    )
    parser.add_argument("--bound-ms", type=float, default=10.0, help="bound of the p99 of the delay")
    options = parser.parse_args()
    print(
        f"{len(cores())} cores, load average {os.getloadavg()[0]:.1f}; through {options.through}, {options.processes} "
        f"processes, {options.workers} workers, {len(TEXTS)} documents per request, {options.seconds:g} s"
    )
    print(HEADINGS)
    with opened_subject(options.through, options.workers) as target:
        for rate in options.rate:
            before_s = used_s()
            timings = measure(target, rate, options.seconds, workers=options.workers, processes=options.processes)
            delays_ms = 1e3 * np.array([timing.delay_s for timing in timings])
            last_s = max(timing.done_s for timing in timings)
            failed = sum(timing.error is not None for timing in timings)
            p50, p99, p999 = np.percentile(delays_ms, [50, 99, 99.9])
            service_ms = 1e3 * float(np.median([timing.service_s for timing in timings]))
            print(
                f"{rate:6.0f}  {len(timings) / last_s:9.1f}  {failed:6}  {p50:12.3f}  {p99:7.3f}  {p999:7.3f}  "
                f"{delays_ms.max():6.1f}  {service_ms:14.2f}  {(used_s() - before_s) / last_s:12.2f}",
                flush=True,
            )
            held = p99 < options.bound_ms and not failed and len(timings) == round(rate * options.seconds)
    result = "held" if held else "could not hold"
    print(
        f"{result} {rate:,.0f}/s for {options.seconds:g} s: p99 of the delay {p99:.3f} ms, "
        f"bound {options.bound_ms:g} ms"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
