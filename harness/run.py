"""The loop: score what has no score yet, one query at a time, and commit after each.

It knows engines by their contract and the store by its methods; it has no idea of reports or of other workers.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import engines
from engines.base import Engine, Pair, ScoringFailed
from harness import machine, progress
from harness.benchmarks import load as load_benchmark
from harness.benchmarks.stored import Picked
from harness.candidates import retrieve
from harness.config import Config, ConfigError, EngineEntry
from harness.measures import oracle, random_order, recall
from harness.records import Benchmark, Candidates, Failure, Manifest, Sample, Score
from harness.store import Store


@dataclass(frozen=True)
class Selection:
    """The part of a config that a run takes; nothing named means all."""

    engines: Sequence[str] = ()
    benchmarks: Sequence[str] = ()
    limit: int | None = None  # queries of each benchmark


@dataclass(frozen=True)
class Task:
    """A benchmark with its candidates: what every engine of a run has to score."""

    benchmark: Benchmark
    candidates: Candidates

    @property
    def pairs(self) -> int:
        return sum(map(len, self.candidates.lists.values()))

    @cached_property
    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        benchmark, candidates = self.benchmark, self.candidates
        return {
            "revision": benchmark.revision,
            "split": benchmark.split,
            "queries": len(benchmark.queries),
            "documents": len(benchmark.documents),
            "analysis": benchmark.analysis,
            "remove_self": benchmark.remove_self,
            "warnings": [*benchmark.warnings, *candidates.warnings],
            "candidates": {
                "source": candidates.source,
                "k": candidates.k,
                "parameters": dict(candidates.parameters),
                "sha256": candidates.sha256,
                "recall": recall(benchmark.qrels, candidates.lists, candidates.k),
                "oracle": oracle(benchmark.qrels, candidates.lists),
                "random": random_order(benchmark.qrels, candidates.lists),
            },
        }


def prepare(config: Config, selection: Selection) -> list[Task]:
    """Load the selected benchmarks and find their candidates. Raises ConfigError, BenchmarkError."""
    names, limit = selection.benchmarks, selection.limit
    tasks: dict[str, Task] = {}
    known: list[str] = []
    for shown, entry in config.entries():
        if shown is not None and names and shown not in names:
            known.append(shown)  # a suite may be hundreds of gigabytes: its members are not loaded to learn their names
            continue
        options = entry.options
        if limit is not None:
            options["queries"] = min(limit, int(options.get("queries") or limit))
        with progress.waiting(f"loading {shown or options.get('name', entry.source)}"):
            benchmark = load_benchmark(entry.source, options)
        if shown is not None:
            benchmark = replace(benchmark, name=shown)
        if benchmark.name in known:
            raise ConfigError(f"benchmark {benchmark.name!r} is there twice: give one of them another `name`")
        known.append(benchmark.name)
        if names and benchmark.name not in names:
            continue
        stage = entry.candidates or config.candidates
        tasks[benchmark.name] = Task(benchmark, retrieve(benchmark, stage))
    unknown = sorted(set(names) - tasks.keys())
    if unknown:
        raise ConfigError(f"benchmark {unknown[0]!r} is not in the config; it has {', '.join(known)}")
    return list(tasks.values())


def score_engine(name: str, entry: EngineEntry, tasks: Sequence[Task], folder: Path, *, fresh: bool) -> None:
    """Score every task with one engine into its folder; what is scored already stays, unless `fresh`.

    Raises EngineUnavailable before anything is written, NotComparable if the folder holds other results.
    """
    with progress.waiting(f"loading {name}"):
        loaded = engines.load(entry.kind, entry.options)
    with loaded as engine:
        manifest = describe(name, entry, engine, tasks)
        # only now: an engine that cannot be loaded must not cost the results of one that could
        with Store.open(folder, manifest, fresh=fresh) as store:
            for task in tasks:  # of all of them before the first is scored: they are the denominators of a report
                store.save_qrels(task.benchmark.name, task.benchmark.qrels)
            for task in tasks:
                left = left_to_score(task, store)
                if left:
                    prepare_engine(engine, task, left, store)
                    pairs = sum(len(task.candidates.lists[query_id]) for query_id in left)
                    with progress.bar(f"{name} on {task.benchmark.name}", pairs, "pairs") as done:
                        score_task(engine, task, left, store, done)


def describe(name: str, entry: EngineEntry, engine: Engine, tasks: Sequence[Task]) -> Manifest:
    return Manifest(
        engine=name,
        kind=entry.kind,
        options=entry.options,
        description=engine.describe(),
        versions=machine.versions(),
        machine=machine.machine(),
        benchmarks={task.benchmark.name: task.entry for task in tasks},
    )


def left_to_score(task: Task, store: Store) -> list[str]:
    done = store.done(task.benchmark.name)
    return [query_id for query_id in task.candidates.lists if query_id not in done]


def prepare_engine(engine: Engine, task: Task, query_ids: Sequence[str], store: Store) -> None:
    """Show the engine the texts that it asked for, and record how long it took."""
    benchmark, lists = task.benchmark, task.candidates.lists
    if engine.prepares == "nothing":
        return
    documents: Collection[str] = benchmark.documents.values()
    if engine.prepares == "candidates":
        wanted = dict.fromkeys(doc_id for query_id in query_ids for doc_id in lists[query_id])
        documents = Picked(benchmark.documents, wanted)
    started = time.perf_counter()
    with progress.reading(f"documents of {benchmark.name}", documents) as shown:
        engine.prepare(shown, analysis=benchmark.analysis)
    store.prepared(benchmark.name, time.perf_counter() - started)


def score_task(
    engine: Engine, task: Task, query_ids: Sequence[str], store: Store, on_pairs: Callable[[int], None]
) -> None:
    """Score these queries one after the other. A query that fails is recorded and tried again by the next run."""
    benchmark, warmup = task.benchmark, True
    for query_id in query_ids:
        doc_ids = task.candidates.lists[query_id]
        pairs = [Pair(benchmark.queries[query_id], benchmark.documents[doc_id]) for doc_id in doc_ids]
        before = engine.counts()
        started = time.perf_counter()
        try:
            values = checked(engine.score(pairs) if pairs else [], pairs)
        except ScoringFailed as error:
            store.fail(benchmark.name, Failure(query_id, str(error)))
        else:
            service_s = time.perf_counter() - started
            counts = _increase(before, engine.counts())
            sample = Sample(query_id, service_s, len(pairs), warmup, counts)
            ranked = zip(doc_ids, range(1, len(doc_ids) + 1), values, strict=True)
            store.commit(benchmark.name, sample, [Score(*row) for row in ranked])
            warmup = warmup and not pairs
        on_pairs(len(pairs))


def checked(values: Sequence[float], pairs: Sequence[Pair]) -> list[float]:
    """The scores, if there is one finite number per pair; else ScoringFailed. Evaluators rank NaN without a word."""
    if len(values) != len(pairs):
        raise ScoringFailed(f"the engine returned {len(values)} scores for {len(pairs)} pairs")
    for value, pair in zip(values, pairs, strict=True):
        if not math.isfinite(value):
            raise ScoringFailed(f"score {value!r} for document {pair.document[:60]!r}: expected a finite number")
    return [float(value) for value in values]  # SQLite would keep a numpy.float32 as four bytes


def _increase(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items()}
