"""How exact the load generator itself is: an engine that answers at once, and how late its requests were.

python perf/load_generator.py --rate 1000 --seconds 30
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.base import Engine, Options, Pair
from harness.latency.load import Request, Target, Timing, schedule, server, steady
from harness.latency.recording import Recorder


class Instant(Engine):
    def score(self, pairs: Sequence[Pair]) -> list[float]:
        return [1.0] * len(pairs)


def measure(rate: float, seconds: float, workers: int) -> list[Timing]:
    count = round(rate * seconds)
    requests = [Request("q", [Pair("query", "document")] * 10)] * count
    timings: list[Timing] = []
    with tempfile.TemporaryDirectory() as folder, Recorder(Path(folder) / "samples.jsonl", {}) as recorder, steady():

        def record(timing: Timing) -> None:  # as a measurement does: on disk, too
            recorder.add(timing)
            timings.append(timing)

        server(
            Target(Instant(Options()), concurrent=True), requests, schedule(count, rate, "poisson", 0), workers, record
        )
    return timings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, nargs="+", default=[100, 500, 1000, 2000], help="requests per second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--workers", type=int, default=16)
    arguments = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}, {arguments.workers} workers")
    print("rate/s  reached/s  delay p50 ms  p99 ms  p99.9 ms  max ms")
    for rate in arguments.rate:
        timings = measure(rate, arguments.seconds, arguments.workers)
        delays_ms = 1e3 * np.array([timing.delay_s for timing in timings])
        reached = len(timings) / max(timing.done_s for timing in timings)
        p50, p99, p999 = np.percentile(delays_ms, [50, 99, 99.9])
        print(f"{rate:6.0f}  {reached:9.1f}  {p50:12.3f}  {p99:6.3f}  {p999:8.3f}  {delays_ms.max():6.1f}", flush=True)


if __name__ == "__main__":
    main()
