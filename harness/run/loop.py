"""The loop: score the queries that have no scores yet, one at a time, and commit after every query.

It uses engines only through their contract and the store through its methods. It knows nothing of reports or workers.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import engines
from engines.base import Counts, Description, Engine, EngineError, EngineFailed, EngineUnavailable, Pair, ScoringFailed
from engines.own_errors import closing, own_errors_as
from harness import machine, progress
from harness.benchmarks.stored import Picked
from harness.config import EngineEntry
from harness.manifest import Machine, Manifest
from harness.records import Failure, Sample, Score
from harness.run.tasks import Task, narrowed
from harness.store import Store

log = logging.getLogger("crispbench")

GIVE_UP_AFTER = 3  # queries in a row that fail because of the engine
GIVEN_UP = (
    f"given up after {GIVE_UP_AFTER} queries in a row without scores; scores so far are kept, and the same command "
    "goes on from there"
)


class Identity(NamedTuple):
    """An engine's description and its environment. Engines that differ in them never score into the same store."""

    description: Description
    versions: Mapping[str, str]
    machine: Machine


class ScoredQuery(NamedTuple):
    """The scores of one query's pairs, and their cost."""

    values: Sequence[float] | None  # None if the query failed
    error: str  # empty unless the query failed
    service_s: float  # around the one call of the engine
    counts: Counts  # increase of the engine's counts
    warmup: bool  # the first query with pairs that this engine scored
    engine_failed: bool = False  # the query failed, and others would fail as well


class GivenUp(EngineError):
    """The engine failed for several queries in a row; what it scored before is kept."""


class Streak:
    """The queries in a row that failed because of the engine."""

    def __init__(self) -> None:
        self._length = 0

    def add(self, scored: ScoredQuery) -> None:
        """Count a query. Raises GivenUp after GIVE_UP_AFTER failures."""
        if scored.values == []:  # a query without candidates: the engine was not asked
            return
        self._length = self._length + 1 if scored.engine_failed else 0
        if self._length == GIVE_UP_AFTER:
            raise GivenUp(f"{GIVEN_UP}: {scored.error}")


def score_engine(name: str, entry: EngineEntry, tasks: Sequence[Task], folder: Path, *, fresh: bool) -> None:
    """Score every task with one engine into its folder. Earlier scores are kept, unless `fresh`.

    Raises EngineUnavailable before anything is written, NotComparable if the folder has another configuration, and
    GivenUp if the engine fails for several queries in a row.
    """
    with progress.waiting(f"loading {name}"):
        loaded = engines.load(entry.kind, entry.options)
    with closing(loaded) as engine:
        manifest = describe(name, entry, identify(engine), tasks)
        # The store opens after the engine: with `fresh`, an engine that cannot be loaded must not delete results.
        with Store.open(folder, manifest, fresh=fresh, narrowed=partial(narrowed, tasks)) as store:
            save_judgements(tasks, store)
            for task in tasks:
                query_ids = unscored(task, store)
                if query_ids:
                    if engine.prepares != "nothing":
                        store.prepared(task.benchmark.name, prepare_engine(engine, task, query_ids))
                    pairs = sum(len(task.candidates.lists[query_id]) for query_id in query_ids)
                    with progress.bar(f"{name} on {task.benchmark.name}", pairs, "pairs") as done:
                        score_task(engine, task, query_ids, store, done)


def identify(engine: Engine) -> Identity:
    with own_errors_as(EngineUnavailable):
        description = engine.describe()
    return Identity(description, machine.versions(), machine.machine())


def describe(name: str, entry: EngineEntry, identity: Identity, tasks: Sequence[Task]) -> Manifest:
    return Manifest(
        engine=name,
        kind=entry.kind,
        options=entry.decisive,
        description=identity.description,
        versions=identity.versions,
        machine=identity.machine,
        benchmarks={task.benchmark.name: task.entry for task in tasks},
    )


def save_judgements(tasks: Sequence[Task], store: Store) -> None:
    """Write the judgements and oddities of all tasks before scoring, because they are the report's denominators."""
    for task in tasks:
        store.save_qrels(task.benchmark.name, task.benchmark.qrels)
    for task in tasks:
        if store.oddities(task.benchmark.name) is None:
            with progress.waiting(f"examining the candidates of {task.benchmark.name}"):
                store.save_oddities(task.benchmark.name, task.oddities)


def unscored(task: Task, store: Store) -> list[str]:
    """The queries of a task that have no scores yet. Those that failed before come last and hold up no other."""
    name = task.benchmark.name
    done, failed = store.done(name), {failure.query_id for failure in store.failures(name)}
    return sorted((query_id for query_id in task.query_ids if query_id not in done), key=failed.__contains__)


def prepare_engine(engine: Engine, task: Task, query_ids: Sequence[str]) -> float:
    """Give the engine the texts that it prepares, and return the seconds that this took."""
    benchmark, lists = task.benchmark, task.candidates.lists
    if engine.prepares == "nothing":
        return 0.0
    documents: Collection[str] = benchmark.documents.values()
    if engine.prepares == "candidates":
        doc_ids = dict.fromkeys(doc_id for query_id in query_ids for doc_id in lists[query_id])
        documents = Picked(benchmark.documents, doc_ids)
    started = time.perf_counter()
    with own_errors_as(EngineFailed), progress.reading(f"documents of {benchmark.name}", documents) as shown:
        engine.prepare(shown, analysis=benchmark.analysis)
    return time.perf_counter() - started


def score_task(
    engine: Engine, task: Task, query_ids: Sequence[str], store: Store, on_pairs: Callable[[int], None]
) -> None:
    """Score these queries one after the other. A query that fails is recorded, and the next run tries it again.

    Raises GivenUp after GIVE_UP_AFTER queries in a row that failed because of the engine.
    """
    benchmark, documents, warm, streak = task.benchmark, task.benchmark.documents, False, Streak()
    for query_id in query_ids:
        query, doc_ids = benchmark.queries[query_id], task.candidates.lists[query_id]
        pairs = [Pair(query, documents[doc_id]) for doc_id in doc_ids]
        scored = score_query(engine, pairs, warmup=not warm)
        commit(store, task, query_id, scored)
        streak.add(scored)
        warm = warm or bool(pairs)
        on_pairs(len(pairs))


def score_query(engine: Engine, pairs: Sequence[Pair], *, warmup: bool) -> ScoredQuery:
    """Score one query's pairs. If the engine fails, the result has the error and no scores.

    An error that the engine does not raise on purpose counts as EngineFailed: other queries may meet it as well.
    """
    started = time.perf_counter()
    try:
        with own_errors_as(EngineFailed):
            before, started = engine.counts(), time.perf_counter()
            values = checked(engine.score(pairs) if pairs else [], pairs)
    except ScoringFailed as error:
        log.debug("a query without scores", exc_info=error)
        failed_s, engine_failed = time.perf_counter() - started, isinstance(error, EngineFailed)
        return ScoredQuery(None, str(error), failed_s, Counts(), warmup, engine_failed)
    service_s = time.perf_counter() - started
    with own_errors_as(EngineFailed):
        return ScoredQuery(values, "", service_s, engine.counts() - before, warmup)


def commit(store: Store, task: Task, query_id: str, scored: ScoredQuery) -> None:
    """Commit the scores of a query, or its failure, which the next run tries again."""
    name, doc_ids = task.benchmark.name, task.candidates.lists[query_id]
    if scored.values is None:
        store.fail(name, Failure(query_id, scored.error))
        return
    sample = Sample(query_id, scored.service_s, len(doc_ids), scored.warmup, scored.counts)
    ranked = zip(doc_ids, range(1, len(doc_ids) + 1), scored.values, strict=True)
    store.commit(name, sample, list(map(Score._make, ranked)))


def checked(values: Sequence[float], pairs: Sequence[tuple[str, str]]) -> list[float]:
    """The scores as floats. Raises ScoringFailed unless every pair has a finite number, because NaN would be ranked."""
    if len(values) != len(pairs):
        raise ScoringFailed(f"the engine returned {len(values)} scores for {len(pairs)} pairs")
    if not all(map(math.isfinite, values)):
        value, (_, document) = next(pair for pair in zip(values, pairs, strict=True) if not math.isfinite(pair[0]))
        raise ScoringFailed(f"score {value!r} for document {document[:60]!r}: expected a finite number")
    return list(map(float, values))  # SQLite would keep a numpy.float32 as four bytes
