"""The loop over Ray workers, each with one engine. Only the driver writes, and it commits query by query.

A shard is a few queries of one benchmark with their texts; all shards have about the same number of tokens. A worker
gets its next shard when it finishes one, so the speed of the workers does not have to be known. Workers score as the
loop in a single process does.
"""

import os
import platform
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import engines
from engines.base import Counts, Engine, EngineFailed, EngineUnavailable, Options, Pair, require
from engines.own_errors import named_line, own_errors_as
from harness import children, files, progress
from harness.config import Cluster, EngineEntry
from harness.run import loop
from harness.run.folder import WORKERS
from harness.run.loop import Identity
from harness.run.tasks import Task, narrowed
from harness.store import NotComparable, Store

FORMAT = 1  # 1: first version, 2026-11
SHARD_CHARACTERS = 2**17  # about 32,000 tokens, which take a fast GPU 0.2 s: 300 times the cost of a call of Ray
SHARES = 8  # smallest number of shards per worker, if there are enough queries, so that workers end at the same time
WAITING = 2  # shards per worker at a time: the one that it scores, and the next
ATTEMPTS = 3  # number of workers that may die while scoring a query before the query fails
DEATHS = 9  # number of consecutive deaths of workers without a result after which the engine is unavailable
PATIENCE_S = 120.0  # time that the cluster has to start a worker if none is running


class EngineJob(NamedTuple):
    """An engine of the config, and the number and resources of its workers."""

    name: str
    entry: EngineEntry
    cluster: Cluster


class Query(NamedTuple):
    """A query as a worker receives it."""

    query_id: str
    text: str
    positions: Sequence[int]  # indices of its candidates in the documents of its shard


class Shard(NamedTuple):
    """The work for one call of a worker. A document that several queries share is sent once."""

    benchmark: str
    analysis: str
    queries: Sequence[Query]
    documents: Sequence[str]
    deaths: int = 0  # number of workers that died while scoring it

    @property
    def pairs(self) -> int:
        return sum(len(query.positions) for query in self.queries)

    def singles(self) -> Iterator["Shard"]:
        """One shard per query, so that a query that kills workers does not affect the other queries."""
        for query in self.queries:
            documents = [self.documents[position] for position in query.positions]
            alone = query._replace(positions=range(len(documents)))
            yield self._replace(queries=[alone], documents=documents, deaths=self.deaths + 1)


class Worker:
    """An engine in its own process, as a Ray actor."""

    def __init__(self, kind: str, options: Options) -> None:
        self._kind, self._options = kind, options
        self._engine: Engine | None = None
        self._warm = False

    def load(self) -> tuple[Identity, str]:
        """Load the engine, and return its identity and `NODE:PROCESS`.

        Raises EngineUnavailable and BadOptions. The constructor must not load the engine, because an actor that fails
        to start hides the reason.
        """
        self._engine = engine = engines.load(self._kind, self._options)
        return loop.identify(engine), f"{platform.node()}:{os.getpid()}"

    def score(self, shard: Shard) -> list[loop.ScoredQuery]:
        """The scores of every query of the shard, in its order."""
        assert self._engine is not None, "load() comes first"
        if self._engine.prepares == "candidates":
            with own_errors_as(EngineFailed):
                self._engine.prepare(shard.documents, analysis=shard.analysis)
        scored = []
        for query in shard.queries:
            pairs = [Pair(query.text, shard.documents[position]) for position in query.positions]
            scored.append(loop.score_query(self._engine, pairs, warmup=not self._warm))
            self._warm = self._warm or bool(pairs)
        return scored


@dataclass
class ShardWorker:
    """The driver's view of a worker."""

    actor: Any
    process: str = ""  # NODE:PROCESS; empty until its engine is loaded
    held: dict[Any, Shard] = field(default_factory=dict)  # Ray's reference to future scores -> shard
    totals: Counter[str] = field(default_factory=Counter)
    busy_s: float = 0.0

    def count(self, scored: Sequence[loop.ScoredQuery], pairs: int) -> None:
        self.totals.update({"queries": len(scored), "pairs": pairs})
        for query in scored:
            self.totals.update(query.counts.document())
            self.busy_s += query.service_s


class Crew:
    """The workers of one engine. As a context manager, it ends them."""

    def __init__(self, job: EngineJob, say: Callable[[str], None]) -> None:
        self._ray = require("ray", extra="ray")
        cluster = job.cluster
        self._actor = self._ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus)(Worker)
        self._entry, self._say = job.entry, say
        self._members: list[ShardWorker] = []
        self._gone: list[ShardWorker] = []  # dead workers, whose work still counts
        self._loading: dict[Any, ShardWorker] = {}
        self._last_worker_s = time.monotonic()
        self.identity: Identity | None = None
        self.last_error = ""
        self._deaths = 0
        self.size = cluster.workers or self._room(cluster)
        for _ in range(self.size):
            self._hire()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for member in [*self._members, *self._loading.values()]:
            self._ray.kill(member.actor)

    def start(self) -> Identity:
        """Wait for the first worker; the others join later. Raises EngineUnavailable."""
        while self.identity is None:
            for _ in self.step():
                raise AssertionError("no worker has a shard yet")
        return self.identity

    @property
    def free(self) -> list[ShardWorker]:
        """Members that can hold one more shard, the least busy first."""
        return sorted(
            (member for member in self._members if len(member.held) < WAITING), key=lambda member: len(member.held)
        )

    @property
    def busy(self) -> bool:
        return any(member.held for member in self._members)

    def give(self, member: ShardWorker, shard: Shard) -> None:
        member.held[member.actor.score.remote(shard)] = shard

    def step(self) -> Iterator[tuple[Shard, list[loop.ScoredQuery] | None]]:
        """Wait for an event, and yield every returned shard with its scores, or with None if its worker died."""
        references = [*self._loading, *(reference for member in self._members for reference in member.held)]
        ready, _ = self._ray.wait(references, num_returns=1, timeout=1.0)
        for reference in ready:
            if reference in self._loading:
                self._welcome(reference)
                continue
            member = next(member for member in self._members if reference in member.held)
            try:
                scored = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                yield from self._bury(member, error)
                return
            shard = member.held.pop(reference)
            member.count(scored, shard.pairs)
            self._deaths = 0
            yield shard, scored
        if self._members or not self._loading:
            self._last_worker_s = time.monotonic()
        elif time.monotonic() - self._last_worker_s > PATIENCE_S:
            raise EngineUnavailable(
                f"no worker started within {PATIENCE_S:.0f} s; the cluster has {self._ray.cluster_resources()}: "
                "request less under `ray` in the config, or wait for nodes; committed results are kept"
            )

    def document(self, seconds: float) -> dict[str, Any]:
        """The content of workers.json."""
        workers = [
            {"place": member.process, **member.totals, "busy_s": member.busy_s, "died": member in self._gone}
            for member in [*self._gone, *self._members]
            if member.process
        ]
        return {"format": FORMAT, "seconds": seconds, "workers": workers}

    def _room(self, cluster: Cluster) -> int:
        """The number of workers that the cluster has room for now, at least 1."""
        resources = self._ray.cluster_resources()
        needed = {"CPU": cluster.cpus, "GPU": cluster.gpus}  # per worker
        return max(int(min(resources.get(name, 0) / amount for name, amount in needed.items() if amount)), 1)

    def _hire(self) -> None:
        member = ShardWorker(self._actor.remote(self._entry.kind, self._entry.options))
        self._loading[member.actor.load.remote()] = member

    def _welcome(self, reference: Any) -> None:
        member = self._loading.pop(reference)
        try:
            identity, process = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if not self._members and not self._loading:
                raise error.cause from None
            self._say(f"crispbench: a worker could not load its engine; the others continue: {_line(error)}")
            return
        except self._ray.exceptions.RayError as error:
            if not self._members and not self._loading:
                raise EngineUnavailable(f"no worker could start: {_line(error)}") from None
            self._say(f"crispbench: a worker could not start; the others continue: {_line(error)}")
            return
        if self.identity is None:
            self.identity = identity
        difference = differing(self.identity, identity)
        if difference:
            raise NotComparable(
                f"worker {process} has {difference}: results of different workers are never mixed; run on equal nodes, "
                "and give every kind of node its own --out"
            )
        member.process = process
        self._members.append(member)

    def _bury(self, member: ShardWorker, error: Exception) -> Iterator[tuple[Shard, None]]:
        """End a worker that died, or whose engine raised an unexpected error, and start another."""
        self._members.remove(member)
        self._gone.append(member)
        self._ray.kill(member.actor)
        current, *waiting = member.held.values()
        member.held = {}
        self.last_error = _line(error)
        self._deaths += 1
        if self._deaths >= DEATHS:
            raise EngineUnavailable(
                f"{DEATHS} workers died one after the other without a result; the last: {self.last_error}"
            )
        self._say(f"crispbench: worker {member.process} died ({self.last_error}): its queries are scored again")
        self._hire()
        yield current, None
        for shard in waiting:  # the worker had not begun these
            yield shard._replace(deaths=shard.deaths - 1), None


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a Ray cluster. `local` starts one on this machine; any other value is the address of a running one.

    Raises EngineUnavailable.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports usage to its makers by default
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's default; setting it avoids an announcement on every start
    ray = require("ray", extra="ray")
    quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    paths = _import_paths(ray)
    try:
        if address == "local":
            ray.init(address="local", include_dashboard=False, job_config=paths, **quiet)
        else:
            ray.init(address=address, job_config=paths, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise EngineUnavailable(
            f"Ray at {address!r} cannot be reached ({_line(error)}): expected local, auto or HOST:PORT"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _import_paths(ray: Any) -> Any:
    """A job config with which workers import what this process imports, and nothing from the working directory.

    Ray would put the working directory first on their path.
    """
    config = ray.job_config.JobConfig(_py_driver_sys_path=children.own_path())
    config._runtime_env_has_working_dir = lambda: True  # the one case in which Ray leaves the working directory out
    return config


def score_engine(
    job: EngineJob, tasks: Sequence[Task], folder: Path, *, fresh: bool, say: Callable[[str], None]
) -> None:
    """Score every task with the workers of one engine into its folder. The store equals that of a single process.

    An engine that prepares a whole corpus scores in this process, because every worker would repeat the preparation.
    Raises EngineUnavailable before anything is written, NotComparable if workers differ from each other or the
    folder has another configuration, and GivenUp if the engine fails for several queries in a row.
    """
    if engines.engine_class(job.entry.kind).prepares == "corpus":
        (folder / WORKERS).unlink(missing_ok=True)
        loop.score_engine(job.name, job.entry, tasks, folder, fresh=fresh)
        return
    with Crew(job, say) as crew:
        with progress.waiting(f"loading {job.name}"):
            identity = crew.start()
        manifest = loop.describe(job.name, job.entry, identity, tasks)
        with Store.open(folder, manifest, fresh=fresh, narrowed=partial(narrowed, tasks)) as store:
            loop.save_judgements(tasks, store)
            started = time.perf_counter()
            try:
                for task in tasks:
                    query_ids = loop.unscored(task, store)
                    pairs = sum(len(task.candidates.lists[query_id]) for query_id in query_ids)
                    with progress.bar(f"{job.name} on {task.benchmark.name}", pairs, "pairs") as done:
                        _score_task(crew, task, query_ids, store, done)
            finally:
                files.write_json(folder / WORKERS, crew.document(time.perf_counter() - started))


def shards(task: Task, query_ids: Iterable[str], *, most: int) -> Iterator[Shard]:
    """The queries in shards of about SHARD_CHARACTERS characters and at most `most` queries. Texts are read lazily.

    The driver has no tokenizer, so characters approximate tokens; only the sizes of shards depend on that. The corpus
    may be on disk and larger than memory.
    """
    benchmark, queries, index_of = task.benchmark, list[Query](), dict[str, int]()
    documents, size = list[str](), 0
    for query_id in query_ids:
        positions = []
        for doc_id in task.candidates.lists[query_id]:
            if doc_id not in index_of:
                index_of[doc_id] = len(documents)
                documents.append(benchmark.documents[doc_id])
            positions.append(index_of[doc_id])
            size += len(documents[index_of[doc_id]])
        queries.append(Query(query_id, benchmark.queries[query_id], positions))
        if size >= SHARD_CHARACTERS or len(queries) == most:
            yield Shard(benchmark.name, benchmark.analysis, queries, documents)
            queries, documents, index_of, size = [], [], {}, 0
    if queries:
        yield Shard(benchmark.name, benchmark.analysis, queries, documents)


def _score_task(
    crew: Crew, task: Task, query_ids: Sequence[str], store: Store, on_pairs: Callable[[int], None]
) -> None:
    """Score one task. A shard is read and sent only when a worker has room for it."""
    most = max(len(query_ids) // (SHARES * crew.size), 1)
    new, again, streak = shards(task, query_ids, most=most), deque[Shard](), loop.Streak()
    exhausted = False
    while not exhausted or again or crew.busy:
        for member in crew.free:
            shard = again.popleft() if again else next(new, None)
            if shard is None:
                exhausted = True
                break
            crew.give(member, shard)
        if not (crew.busy or again or not exhausted):
            break
        for shard, scored in crew.step():
            if scored is None and shard.deaths + 1 < ATTEMPTS:
                again.extend(shard.singles())
                continue
            if scored is None:
                error = f"{ATTEMPTS} workers died while scoring it; the last: {crew.last_error}"
                scored = [loop.ScoredQuery(None, error, 0.0, Counts(), warmup=False)]
            for query, result in zip(shard.queries, scored, strict=True):
                loop.commit(store, task, query.query_id, result)
                streak.add(result)
            on_pairs(shard.pairs)


def differing(first: Identity, second: Identity) -> str:
    """The first difference between two workers; empty if they are equal."""
    sides = [
        {
            "description": identity.description.document(),
            "versions": identity.versions,
            "machine": identity.machine.document(),
        }
        for identity in (first, second)
    ]
    for part in sides[0]:
        expected, actual = (side[part] for side in sides)
        for name in sorted(expected.keys() | actual.keys()):
            if expected.get(name) != actual.get(name):
                return f"{part}.{name} = {actual.get(name)!r}, but the first worker has {expected.get(name)!r}"
    return ""


def _line(error: BaseException) -> str:
    return named_line(getattr(error, "cause", None) or error)
