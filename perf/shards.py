"""What Ray costs and how it scales: a fake engine that sleeps, in this process and with 1 and 2 workers.

python perf/shards.py --queries 600 --delay-ms 20

The engine sleeps as long as a GPU would score a query, so scaling to two workers shows without a second GPU. Overhead
is the time beyond the sleep, per pair; the time to start Ray and its workers is a column of its own.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

from harness.config import Cluster, Config, read_config
from harness.machine import record
from harness.run import loop, shards
from harness.run.folder import WORKERS
from harness.run.tasks import Selection, Task, prepare

K = 100  # candidates per query


class ShardTiming(NamedTuple):
    name: str
    workers: int
    starting_s: float
    scoring_s: float
    pairs: int
    slept_s: float  # sum over all queries

    def line(self) -> str:
        ideal_s = self.slept_s / self.workers
        overhead_us = (self.scoring_s - ideal_s) / self.pairs * self.workers * 1e6
        return (
            f"{self.name:<12} {self.workers:7d} {self.starting_s:11.1f} {self.scoring_s:10.2f} {ideal_s:9.2f} "
            f"{ideal_s / self.scoring_s:10.1%} {self.pairs / self.scoring_s:9,.0f} {overhead_us:14.1f}"
        )


def write_config(folder: Path, queries: int, delay_s: float) -> Path:
    """A benchmark of `queries` queries with 100 candidates of about 1,000 characters each, as a TREC run file."""
    data = folder / "data"
    (data / "qrels").mkdir(parents=True)
    words = " ".join(f"word{number}" for number in range(150))
    with (data / "corpus.jsonl").open("w") as corpus:
        for number in range(2000):
            corpus.write(json.dumps({"_id": f"d{number}", "title": "", "text": f"{number} {words}"}) + "\n")
    with (data / "queries.jsonl").open("w") as texts, (data / "qrels/test.tsv").open("w") as qrels:
        qrels.write("query-id\tcorpus-id\tscore\n")
        for number in range(queries):
            texts.write(json.dumps({"_id": f"q{number}", "text": f"word{number % 150} what"}) + "\n")
            qrels.write(f"q{number}\td{number % 2000}\t1\n")
    with (data / "run.trec").open("w") as ranked:
        for number in range(queries):
            for rank in range(K):
                ranked.write(f"q{number} Q0 d{(number * 7 + rank) % 2000} {rank + 1} {K - rank} first\n")
    path = folder / "config.yaml"
    document = {
        "name": "shards",
        "engines": {"sleeper": {"kind": "fake", "delay_s": delay_s, "constant": True}},
        "benchmarks": [{"source": "beir", "path": str(data), "name": "made"}],
        "candidates": {"source": "run", "path": str(data / "run.trec"), "k": K},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def alone(config: Config, tasks: list[Task], folder: Path, slept_s: float) -> ShardTiming:
    started = time.perf_counter()
    loop.score_engine("sleeper", config.engines["sleeper"], tasks, folder, fresh=True)
    return ShardTiming("one process", 1, 0.0, time.perf_counter() - started, tasks[0].pairs, slept_s)


def over_ray(config: Config, tasks: list[Task], folder: Path, workers: int, slept_s: float) -> ShardTiming:
    began = time.perf_counter()
    with shards.connected("local"):
        job = shards.EngineJob("sleeper", config.engines["sleeper"], Cluster(workers=workers, cpus=0.5))
        shards.score_engine(job, tasks, folder, fresh=True, say=print)
        scoring_s = json.loads((folder / WORKERS).read_text())["seconds"]
        taken_s = time.perf_counter() - began
    return ShardTiming("Ray", workers, taken_s - scoring_s, scoring_s, tasks[0].pairs, slept_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=600, help="queries of the benchmark")
    parser.add_argument("--delay-ms", type=float, default=20.0, help="sleep per query with its 100 documents")
    parser.add_argument("--json", type=Path, help="file for the machine and every figure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CRISPBENCH_CACHE"] = str(folder / "cache")
        config = read_config(write_config(folder, arguments.queries, arguments.delay_ms / 1e3))
        tasks = prepare(config, Selection())
        slept_s = arguments.queries * arguments.delay_ms / 1e3
        print(f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}; {tasks[0].pairs:,} pairs")
        print(
            f"{'':<12} {'workers':>7} {'starting s':>11} {'scoring s':>10} {'ideal s':>9} {'of ideal':>10} "
            f"{'pairs/s':>9} {'overhead us/pair':>14}"
        )
        timings = [alone(config, tasks, folder / "alone", slept_s)]
        print(timings[-1].line(), flush=True)
        for workers in (1, 2):
            timings.append(over_ray(config, tasks, folder / f"ray-{workers}", workers, slept_s))
            print(timings[-1].line(), flush=True)
    if arguments.json:
        document = {"machine": record(), "measured": [timing._asdict() for timing in timings]}
        arguments.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
